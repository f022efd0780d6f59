"""Tell by the exit code whether what runs in a container works.

``healthy.py URL``: a server answers there. ``healthy.py worker NAME POOL``: Prefect hears of
the worker of that name. Nothing but the standard library is imported: this runs often.
"""

import base64
import json
import os
import sys
import urllib.request
from typing import Any

TIMEOUT_SECONDS = 4


def _answer(url: str, body: Any = None) -> bytes:
    headers = {"Accept": "application/json", "Content-Type": "application/json"}
    if auth := os.environ.get("PREFECT_API_AUTH_STRING"):
        headers["Authorization"] = f"Basic {base64.b64encode(auth.encode()).decode()}"
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, headers)  # noqa: S310  an operator's own
    with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS) as response:  # noqa: S310
        content: bytes = response.read()
        return content


def _has_worker(name: str, pool: str) -> bool:
    url = f"{os.environ['PREFECT_API_URL']}/work_pools/{pool}/workers/filter"
    online = _answer(url, {"workers": {"status": {"any_": ["ONLINE"]}}})
    return name in [worker["name"] for worker in json.loads(online)]


def main(arguments: list[str]) -> bool:
    """Answer for one thing; raises `OSError` where nothing answers."""
    match arguments:
        case ["worker", name, pool]:
            return _has_worker(name, pool)
        case [url]:
            return bool(_answer(url))
    sys.exit(__doc__)


if __name__ == "__main__":
    try:
        sys.exit(not main(sys.argv[1:]))
    except (OSError, ValueError) as error:
        sys.exit(f"{type(error).__name__}: {error}")
