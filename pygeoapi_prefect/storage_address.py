"""Addresses of storages: blocks of Prefect, URLs that fsspec opens, and paths.

Pure: nothing here looks whether there is such a storage.
"""

import os
import re
from typing import Final

# secrets of object storages have slashes: no host can be told from them
_PASSWORD: Final = re.compile(r"://[^@]*:[^@]*@")
_QUERY: Final = re.compile(r"://[^?]*\?")


def is_block(address: str) -> bool:
    """Tell a block (``type-slug/name``) from a URL or path."""
    return "://" not in address and not os.path.isabs(address) and address.count("/") == 1


def storage_name(address: str) -> str:
    """Return what errors call the storage at an address; clients may read it.

    That is a block's slug, or the first part of a URL, such as a bucket. No folder is told.
    """
    if is_block(address):
        return address
    scheme, _, rest = address.partition("://")
    if _PASSWORD.search(address):
        rest = rest.rpartition("@")[2]
    host = re.split("[/?]", rest, maxsplit=1)[0].rpartition("@")[2]
    return f"{scheme}://{host}" if host else "on disk"


def check_address(address: str) -> str:
    """Return the address of a storage, if it holds no secret: jobs carry it, and logs show it.

    Raises:
        ValueError: It is a URL with a password, or a query.
    """
    if not is_block(address) and (_PASSWORD.search(address) or _QUERY.search(address)):
        raise ValueError(
            "a URL of a storage holds no password and no query: credentials are in a block, or "
            "in the environment of web servers and workers"
        )
    return address
