"""What links in the inputs of a job refer to: fetched once, kept for as long as the job runs.

A job fetches them before the author's code begins. What that reads with
`inputs.input_bytes` and `inputs.input_json` is then here already.
"""

import contextlib
import tempfile
import threading
from contextvars import ContextVar
from typing import IO, Final, Self

from pygeoapi_prefect import references
from pygeoapi_prefect.references import Fetched

IN_MEMORY_MAX_BYTES: Final = 1024**2
"""Larger contents are in files, which have no name and go with the process, however it ends."""


class Download:
    """What one link refers to.

    Attributes:
        media_type: What the server says it is, without parameters; None if it does not.
    """

    def __init__(self, file: IO[bytes], media_type: str | None) -> None:
        self.media_type = media_type
        self._file = file
        self._lock = threading.Lock()

    def read(self) -> bytes:
        """Return the whole content. Any thread may call it."""
        with self._lock:
            self._file.seek(0)
            return self._file.read()


class Downloads:
    """The downloads of one job; to be closed with it."""

    def __init__(self) -> None:
        self._by_href: dict[str, Download] = {}
        self._exits = contextlib.ExitStack()

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(self, *exception: object) -> None:
        """Remove what was fetched."""
        self._exits.close()

    def find(self, href: str) -> Download | None:
        """Return what a link refers to, if it was fetched."""
        return self._by_href.get(href)

    def fetch(self, href: str) -> Download:
        """Return what a link refers to, fetched now if it was not before.

        Raises:
            InvalidRequest: The link is refused, or its server does not answer well.
            RequestTooLarge: There is more than the policy allows.
        """
        known = self.find(href)
        if known is None:
            spooled = tempfile.SpooledTemporaryFile(IN_MEMORY_MAX_BYTES)  # noqa: SIM115
            file = self._exits.enter_context(spooled)
            known = Download(file, references.fetch_to(href, file))
            self._by_href[href] = known
        return known


current_downloads: ContextVar[Downloads | None] = ContextVar(
    "pygeoapi_prefect_downloads", default=None
)
"""Those of the job that runs here."""


def fetch(href: str) -> Fetched:
    """Return what a link refers to, as the current job has it, or else fetched now.

    Raises as `Downloads.fetch` does.
    """
    downloads = current_downloads.get()
    known = None if downloads is None else downloads.find(href)
    if known is None:
        return references.fetch(href)
    return Fetched(known.read(), known.media_type)
