"""Imported by the server from which warm processes are forked.

The first block that a process loads makes Prefect import all collections that are installed,
which takes seconds.
"""

from prefect.plugins import load_prefect_collections

load_prefect_collections()
