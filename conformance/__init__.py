"""The official conformance suite of OGC API - Processes, against this package: `make cite`."""
