"""From stored outputs to what a client gets: a value, several, links, or a document.

Pure: what must be read or linked is handed in.
"""

import base64
import dataclasses
import json
import urllib.parse
import uuid
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Final, Protocol

from pydantic_core import from_json

from pygeoapi_prefect.errors import InvalidRequest
from pygeoapi_prefect.media_types import JSON_MEDIA_TYPE, TEXT_MEDIA_TYPE, essence, is_json
from pygeoapi_prefect.schemas import (
    ExecutionOutput,
    Link,
    ProcessOutputTransmissionMode,
    ProcessResponseType,
)
from pygeoapi_prefect.wishes import BASE64

# pygeoapi rewrites what it knows to be JSON: it quotes text anew and escapes < and >.
# It knows only this exact media type, so ours says the same in other words.
VERBATIM_JSON_MEDIA_TYPE: Final = "application/json; charset=utf-8"

BY_VALUE_ONLY: Final = "this server hands out outputs by value only"

# Up to here, a document has JSON as JSON and text as text; what is larger is not parsed.
INLINE_VALUE_MAX_BYTES: Final = 8 * 1024**2


class Content(Protocol):
    """Stored bytes, of which any part can be read without the rest."""

    @property
    def size(self) -> int:
        """Length in bytes."""

    def chunks(self, start: int, stop: int) -> Iterator[bytes]:
        """Return the bytes from `start` up to `stop`, in pieces."""


@dataclasses.dataclass(frozen=True)
class HeldContent:
    """Content that is in memory already."""

    data: bytes

    @property
    def size(self) -> int:
        """Length in bytes."""
        return len(self.data)

    def chunks(self, start: int, stop: int) -> Iterator[bytes]:
        """Return the bytes from `start` up to `stop`, in one piece."""
        yield self.data[start:stop]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Output:
    """One output of a job, as the result storage holds it.

    Attributes:
        content: The stored bytes.
        address: Returns a URL from which a client can fetch them; None where there is none.
    """

    output_id: str
    media_type: str
    content: Content
    address: Callable[[], str | None]

    def read(self) -> bytes:
        """Return the whole content."""
        return b"".join(self.content.chunks(0, self.content.size))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Response:
    """The body of a result, and the links that belong to it.

    Attributes:
        segments: The body: bytes, and stored content that is read when it is sent.
        transmission_modes: How outputs are in it.
    """

    media_type: str
    segments: Sequence[bytes | Content] = ()
    links: Sequence[Link] = ()
    transmission_modes: frozenset[ProcessOutputTransmissionMode] = frozenset()

    @property
    def size(self) -> int:
        """Length of the body in bytes."""
        return sum(
            len(segment) if isinstance(segment, bytes) else segment.size
            for segment in self.segments
        )

    @property
    def stored_content(self) -> Content | None:
        """The one stored content that is the whole body, if it is."""
        match self.segments:
            case [segment] if not isinstance(segment, bytes):
                return segment
        return None

    def chunks(self) -> Iterator[bytes]:
        """Return the body in pieces, few of which are in memory at once."""
        for segment in self.segments:
            if isinstance(segment, bytes):
                yield segment
            else:
                yield from segment.chunks(0, segment.size)

    @property
    def body(self) -> bytes:
        """The whole body."""
        return b"".join(self.chunks())


def shape(
    outputs: Sequence[Output],
    requested: Mapping[str, ExecutionOutput],
    response: ProcessResponseType,
) -> Response:
    """Give outputs the form that the request asked for (/req/core/process-execute-sync-...).

    Args:
        outputs: What the job stored. Those not in `requested` are left out.
        requested: Outputs that the client asked for, with their transmission mode. How many
            they are decides whether the client has to take the result apart.
        response: ``document`` is one JSON object; ``raw`` is the value itself, links alone
            where all go by reference, or ``multipart/related`` where there are several.

    Raises:
        InvalidRequest: An output is wanted by reference, and has no address.
    """
    chosen = [output for output in outputs if output.output_id in requested]
    references = {
        output.output_id: _link_to(output)
        for output in chosen
        if requested[output.output_id].transmission_mode is ProcessOutputTransmissionMode.REFERENCE
    }
    encoded = {output_id for output_id, wish in requested.items() if _is_wanted_encoded(wish)}
    if response is ProcessResponseType.document or not chosen:
        shaped = _document(chosen, references, encoded)
    elif len(references) == len(chosen):
        shaped = _links(references)
    elif len(requested) == 1:
        (output,) = chosen
        shaped = Response(
            media_type=_verbatim(output.media_type),
            segments=[_value(output, encoded)],
        )
    else:
        shaped = _multipart(chosen, references, encoded)
    modes = {requested[output.output_id].transmission_mode for output in chosen}
    return dataclasses.replace(shaped, transmission_modes=frozenset(modes))


def links_document(links: Sequence[Link]) -> bytes:
    """Return links as JSON, for clients that get no headers: one alone, or several by output."""
    documents = [link.model_dump(by_alias=True, exclude_none=True) for link in links]
    if len(documents) == 1:
        return json.dumps(documents[0], ensure_ascii=False).encode()
    by_output = {document["title"]: document for document in documents}
    return json.dumps(by_output, ensure_ascii=False).encode()


def _links(references: Mapping[str, Link]) -> Response:
    # in a document, or in parts, outputs have their ids already
    links = [link.model_copy(update={"title": output_id}) for output_id, link in references.items()]
    return Response(media_type=JSON_MEDIA_TYPE, links=links)


def _link_to(output: Output) -> Link:
    address = output.address()
    if address is None:
        raise InvalidRequest(BY_VALUE_ONLY)
    return Link(href=address, rel="item", type_=output.media_type)


def _is_wanted_encoded(wish: ExecutionOutput) -> bool:
    return wish.format_ is not None and wish.format_.encoding == BASE64


def _value(output: Output, encoded: Collection[str]) -> Content:
    return _Base64(output.content) if output.output_id in encoded else output.content


def _verbatim(media_type: str) -> str:
    return VERBATIM_JSON_MEDIA_TYPE if media_type == JSON_MEDIA_TYPE else media_type


def _document(
    outputs: Sequence[Output], references: Mapping[str, Link], encoded: Collection[str]
) -> Response:
    segments: list[bytes | Content] = []
    for output in outputs:
        name = json.dumps(output.output_id, ensure_ascii=False)
        segments.append(f"{',' if segments else '{'}{name}:".encode())
        if link := references.get(output.output_id):
            segments.append(link.model_dump_json(by_alias=True, exclude_none=True).encode())
        elif output.output_id in encoded or output.content.size > INLINE_VALUE_MAX_BYTES:
            segments += _inline_bytes(output)
        else:
            segments += _inline(output)
    segments.append(b"}" if segments else b"{}")
    return Response(media_type=VERBATIM_JSON_MEDIA_TYPE, segments=segments)


def _inline(output: Output) -> list[bytes | Content]:
    """Return an output as ``inlineOrRefData.yaml``: objects and other media types qualified."""
    media_type = output.media_type
    try:
        if is_json(media_type):
            # what Python's parser takes for JSON can be none: NaN, or too deep to write again
            value = from_json(output.read(), allow_inf_nan=False)
            is_plain = not (isinstance(value, dict) or value is None)
        elif media_type.startswith("text/"):
            value = output.read().decode()
            is_plain = essence(media_type) == TEXT_MEDIA_TYPE
        else:
            return _inline_bytes(output)
        if not is_plain:
            value = {"value": value, "mediaType": media_type}
        return [json.dumps(value, ensure_ascii=False, allow_nan=False).encode()]
    except ValueError:
        # neither JSON nor text after all: sent like any other bytes
        return _inline_bytes(output)


def _inline_bytes(output: Output) -> list[bytes | Content]:
    """Return an output in base64, for which nothing has to be parsed."""
    media_type = json.dumps(output.media_type)
    head = f'{{"mediaType":{media_type},"encoding":"{BASE64}","value":"'
    return [head.encode(), _Base64(output.content), b'"}']


@dataclasses.dataclass(frozen=True)
class _Base64:
    """Content as base64."""

    content: Content

    @property
    def size(self) -> int:
        return (self.content.size + 2) // 3 * 4

    def chunks(self, start: int, stop: int) -> Iterator[bytes]:
        # four characters stand for three bytes
        first = start // 4 * 3
        last = min(-(-stop // 4) * 3, self.content.size)
        skipped, left = start % 4, stop - start
        for piece in self._encoded(first, last):
            part = piece[skipped : skipped + left]
            skipped, left = max(0, skipped - len(piece)), left - len(part)
            if part:
                yield part

    def _encoded(self, first: int, last: int) -> Iterator[bytes]:
        rest = b""
        for chunk in self.content.chunks(first, last):
            chunk = rest + chunk
            whole = len(chunk) // 3 * 3
            rest = chunk[whole:]
            yield base64.b64encode(chunk[:whole])
        yield base64.b64encode(rest)


def _multipart(
    outputs: Sequence[Output], references: Mapping[str, Link], encoded: Collection[str]
) -> Response:
    """Return ``multipart/related`` (RFC 2387), one part per output, named by ``Content-ID``."""
    boundary = uuid.uuid4().hex
    segments: list[bytes | Content] = []
    for output in outputs:
        headers = [
            f"Content-ID: <{urllib.parse.quote(output.output_id)}>",
            f"Content-Type: {output.media_type}",
        ]
        link = references.get(output.output_id)
        if link is not None:
            headers.append(f"Content-Location: {link.href}")
        elif output.output_id in encoded:
            headers.append(f"Content-Transfer-Encoding: {BASE64}")
        segments.append("\r\n".join([f"--{boundary}", *headers, "", ""]).encode())
        if link is None:
            segments.append(_value(output, encoded))
        segments.append(b"\r\n")
    segments.append(f"--{boundary}--\r\n".encode())
    return Response(
        media_type=f'multipart/related; boundary="{boundary}"', segments=tuple(segments)
    )
