"""What is wrong with an execute request: gathered, told in one line, of limited length.

Descriptions come from processors of any origin. Where one is sloppy, checks do without it
and say so once in the log: a process is never made unusable by its metadata.
"""

import difflib
import functools
import json
import logging
import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

from pygeoapi_prefect.dialect import cut, shown
from pygeoapi_prefect.errors import Flaw, InvalidRequest

logger = logging.getLogger(__name__)

MAX_PROBLEMS_SHOWN: Final = 20
MAX_DEPTH: Final = 64


def refuse_if_any(flaws: Iterable[Flaw]) -> None:
    """Raise `InvalidRequest` with all flaws, if there are any."""
    found = list(dict.fromkeys(flaws))
    if found:
        shown_ones, more = found[:MAX_PROBLEMS_SHOWN], len(found) - MAX_PROBLEMS_SHOWN
        listed = "; ".join(flaw.text for flaw in shown_ones)
        raise InvalidRequest(f"{listed}; and {more} more" if more > 0 else listed, shown_ones)


def flaw_of_all(part: str, reason: str) -> Flaw:
    """Return what is wrong with the ``inputs`` or ``outputs`` as a whole."""
    return Flaw((part,), reason, f"{part}: {reason}")


def flaw_of(part: str, name: str, reason: str) -> Flaw:
    """Return what is wrong with one of the ``inputs`` or ``outputs``."""
    return Flaw((part, name), reason, f"{part.removesuffix('s')} {_quoted(name)}: {reason}")


@functools.lru_cache(maxsize=1024)
def warn_once(process_id: str, part: str, reason: str) -> None:
    """Say in the log that a part of requests is not checked, and why."""
    logger.warning(
        "process %s: %s is not checked, since its description is broken: %s",
        process_id,
        part,
        reason,
    )


def declared(description: Mapping[str, Any], part: str) -> Mapping[str, Any] | None:
    """Return the ``inputs`` or ``outputs`` of a description by id; None if they are broken."""
    found = description.get(part)
    if isinstance(found, Mapping):
        return found
    warn_once(process_id_of(description), part, f"no mapping by id but {type(found).__name__}")
    return None


def process_id_of(description: Mapping[str, Any]) -> str:
    """Return the id in a description, for the log."""
    return str(description.get("id", "without id"))


def unknown_ids(part: str, given: Mapping[str, Any], known: Mapping[str, Any]) -> Iterator[Flaw]:
    """Yield a flaw for each id that is not known.

    Args:
        part: ``inputs`` or ``outputs``.
        given: What the request has, by id.
        known: What the description has, by id.
    """
    unknown = [name for name in given if name not in known]
    for name in unknown[:MAX_PROBLEMS_SHOWN]:
        text = f"unknown {part.removesuffix('s')} {_quoted(name)}{_hint(name, known)}"
        yield Flaw((part,), text, text)
    if more := len(unknown[MAX_PROBLEMS_SHOWN:]):
        text = f"{more} more unknown {part}"
        yield Flaw((part,), text, text)


def _quoted(name: str) -> str:
    return repr(cut(name, 80))


def _hint(unknown_id: str, known: Mapping[str, Any]) -> str:
    close = difflib.get_close_matches(unknown_id[:200], known, n=1)
    if close:
        return f" (did you mean '{close[0]}'?)"
    return f" (known: {cut(', '.join(known), 200)})" if known else " (the process has none)"


def media_type_problem(media_type: str, offered: Iterable[str]) -> str:
    """Return what is wrong with a media type that is none of those offered."""
    return f"media type {shown(media_type)} is not one of {', '.join(sorted(offered))}"


def depth_of(value: Any) -> int:
    """Return how deep JSON is nested; a lone value is 0 deep.

    Raises:
        ValueError: It is no JSON that can be stored, sent on and read again.
    """
    level: list[Any] = [value]
    for depth in range(MAX_DEPTH + 1):
        below: list[Any] = []
        for item in level:
            if isinstance(item, float):
                if not math.isfinite(item):
                    raise ValueError(f"holds {json.dumps(item)}, which JSON has no number for")
            elif isinstance(item, str):
                _refuse_surrogates(item)
            elif isinstance(item, dict):
                for name in item:
                    _refuse_surrogates(name)
                below.extend(item.values())
            elif isinstance(item, list):
                below.extend(item)
        if not below:
            return depth
        level = below
    raise ValueError(f"is nested more than {MAX_DEPTH} levels deep")


def _refuse_surrogates(text: str) -> None:
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise ValueError("holds half of a surrogate pair, which is no text") from error
