"""Addresses of storages: blocks of Prefect, URLs that fsspec opens, and paths.

Pure: nothing here looks whether there is such a storage.
"""

import os
import re
import urllib.parse
from typing import Final

_SECRETS: Final = re.compile(r"://[^/]*:[^/]*@|://[^?]*\?")


def is_block(address: str) -> bool:
    """Tell a block (``type-slug/name``) from a URL or path."""
    return "://" not in address and not os.path.isabs(address) and address.count("/") == 1


def storage_name(address: str) -> str:
    """Return what errors call the storage at an address; clients may read it.

    That is a block's slug, or the first part of a URL, such as a bucket. No folder is told.
    """
    if is_block(address):
        return address
    url = urllib.parse.urlsplit(address)
    if not url.netloc:
        return "on disk"
    return f"{url.scheme}://{url.netloc.rpartition('@')[2]}"


def check_address(address: str) -> str:
    """Return the address of a storage, if it holds no secret: jobs carry it, and logs show it.

    Raises:
        ValueError: It is a URL with a password, or a query.
    """
    if not is_block(address) and _SECRETS.search(address):
        raise ValueError(
            "a URL of a storage holds no password and no query: credentials are in a block, or "
            "in the environment of web servers and workers"
        )
    return address
