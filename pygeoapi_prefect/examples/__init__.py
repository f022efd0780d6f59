"""Example processors, each usable as it is: ``pygeoapi_prefect.examples.<module>.<class>``."""
