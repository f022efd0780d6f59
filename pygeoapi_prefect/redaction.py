"""What clients do not see of texts that were written for others: secrets, paths, stack traces."""

import re
from typing import Final

# A text can quote a client's input: each pattern takes linear time on any text.
_TRACEBACK: Final = re.compile(r"Traceback \(most recent call last\).*", re.DOTALL)
_URL: Final = re.compile(r"\b(\w{1,20}://)([^\s'\"]+)")
_FILE_URL: Final = re.compile(r"\bfile://(?:localhost)?(?=/)")
_QUOTED_FILE_PATH: Final = re.compile(
    r"(?<=(['\"]))(?:~|[A-Za-z]:)?[/\\](?:[^'\"\n/\\]*[/\\])+[^'\"\n/\\]+(?=\1)"
)
_FILE_PATH: Final = re.compile(
    # a request line is no file path
    r"(?<!GET )(?<!POST )(?<!PUT )(?<!DELETE )"
    r"(?<![\w:/.~])(?:~|[A-Za-z]:)?(?:[/\\][^\s/\\'\":,;()<>]+){2,}[/\\]?"
)
_SECRET: Final = re.compile(
    r"((?:passw(?:or)?d|passphrase|secret|token|api[_-]?key|access[_-]?key|credentials?)"
    r"\w{0,20}['\"]?\s{0,3}[=:]\s{0,3}|\b(?:bearer|basic)\s{1,3})"
    r"(?:\"[^\"\n]{1,500}\"|'[^'\n]{1,500}'|[^\s'\",;&]+)",
    re.IGNORECASE,
)


def redacted(text: str) -> str:
    """Return a text without what says more about the server than about the job.

    The author's own words stay. Stack traces, folders of file paths, values that are said to
    be secrets, and credentials and query strings of URLs go.
    """
    text = _TRACEBACK.sub("", text).strip()
    text = _FILE_URL.sub("", _URL.sub(_public_url, text))
    for file_path in (_QUOTED_FILE_PATH, _FILE_PATH):
        text = file_path.sub(lambda path: re.split(r"[/\\]", path[0].rstrip("/\\"))[-1], text)
    return _SECRET.sub(r"\1***", text)


def _public_url(url: re.Match[str]) -> str:
    scheme, rest = url[1], url[2]
    before_query = rest.partition("?")[0]
    host, colon, port = before_query.partition("/")[0].partition(":")
    # keys of object storages have slashes and question marks in them
    has_password = bool(colon) and not (port.isdigit() and scheme in ("http://", "https://"))
    if has_password or "@" in host:
        return f"{scheme}{rest.rpartition('@')[2].partition('?')[0]}"
    return f"{scheme}{before_query}"
