"""Files that pages of this package load: style sheets, scripts, and the libraries they use."""

import functools
import hashlib
import mimetypes
from http import HTTPStatus
from pathlib import Path
from typing import Final

from pygeoapi.api import API
from werkzeug.http import parse_etags

from pygeoapi_prefect.api.answers import Answer, headers_of
from pygeoapi_prefect.api.problems import status_answer
from pygeoapi_prefect.api.request import Request

FOLDER: Final = Path(__file__).parent.parent / "static"

# Unlike `mimetypes`, the same on every machine: browsers refuse scripts of another type.
_MEDIA_TYPES: Final = {
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".png": "image/png",
}


def get_asset(api: API, request: Request, name: str) -> Answer:
    """Return a file that pages load."""
    # looked up, not opened by the name that a client gives
    path = _files().get(name)
    if path is None:
        return status_answer(api, request, HTTPStatus.NOT_FOUND, "there is no such file")
    content, etag = _content(path)
    headers = headers_of(api, request, _media_type(path))
    # asked for again each time, and sent again when it has changed
    headers |= {"Cache-Control": "no-cache", "ETag": f'"{etag}"'}
    if parse_etags(request.field("if-none-match")).contains_weak(etag):
        return headers, HTTPStatus.NOT_MODIFIED, b""
    return headers, HTTPStatus.OK, content


@functools.cache
def _files() -> dict[str, Path]:
    return {
        path.relative_to(FOLDER).as_posix(): path for path in FOLDER.rglob("*") if path.is_file()
    }


@functools.cache
def _content(path: Path) -> tuple[bytes, str]:
    content = path.read_bytes()
    return content, hashlib.sha256(content).hexdigest()[:32]


def _media_type(path: Path) -> str:
    guessed = mimetypes.guess_type(path.name)[0]
    return _MEDIA_TYPES.get(path.suffix) or guessed or "text/plain; charset=utf-8"
