"""What is measured on: databases, Prefect servers, web servers and workers of the benchmarks' own.

Everything listens on free ports of the loopback interface, keeps its files in a temporary
directory, and is gone afterwards, however the benchmarks end.
"""
