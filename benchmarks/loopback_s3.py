"""An object store on this machine that answers as S3 does, a set time late: what publishing to a bucket meets.

    python -m benchmarks.loopback_s3 --port 9000 --latency-ms 50

One asyncio process with all objects in memory: PUT (with `If-None-Match: *`, whole or in parts), GET (with ranges),
HEAD, DELETE and ListObjectsV2 of any bucket; signatures are not checked. It exists because a server written for tests
costs more CPU than the clients that are measured (moto: 3.4 ms a request, this one 0.15). Each request is answered
`latency` after its last byte came, so that any number may be under way at once, as with the real one.
"""

import argparse
import asyncio
import bisect
import hashlib
import signal
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import format_datetime
from typing import Any
from urllib.parse import parse_qs, unquote
from xml.sax.saxutils import escape

__all__ = ["ObjectStore", "serve"]

_Answer = tuple[int, dict[str, str], bytes]
"""Status, headers and body."""

PAGE_KEYS = 1000
"""Keys in one page of a listing: S3 gives no more."""


@dataclass(frozen=True, slots=True)
class _Object:
    content: bytes
    etag: str
    modified: datetime


class ObjectStore:
    """Objects by bucket and key, and the answers to requests for them."""

    def __init__(self) -> None:
        self.num_requests: dict[str, int] = {}
        self._objects: dict[str, _Object] = {}
        self._sorted: list[str] | None = []
        self._parts: dict[str, dict[int, bytes]] = {}

    def answer(self, method: str, target: str, headers: dict[str, str], body: bytes) -> _Answer:
        """Status, headers and body for one request."""
        path, _, query_text = target.partition("?")
        name, query = unquote(path).strip("/"), parse_qs(query_text, keep_blank_values=True)
        kind = "LIST" if method == "GET" and "list-type" in query else method
        self.num_requests[kind] = self.num_requests.get(kind, 0) + 1
        if kind == "LIST":
            return self._list(name, query)
        if "/" not in name:  # of the bucket itself
            return 200, {}, b""
        if "uploads" in query or "uploadId" in query:
            return self._upload_in_parts(method, name, query, headers, body)
        if method == "PUT":
            return self._put(name, headers, body)
        if method == "DELETE":
            if self._objects.pop(name, None) is not None:
                self._sorted = None
            return 204, {}, b""
        return self._get(name, headers)

    def _put(self, name: str, headers: dict[str, str], body: bytes) -> _Answer:
        if headers.get("if-none-match") == "*" and name in self._objects:
            return 412, {}, _error("PreconditionFailed")
        if "aws-chunked" in headers.get("content-encoding", ""):
            body = _unchunked(body)
        if name not in self._objects:
            self._sorted = None
        etag = hashlib.md5(body, usedforsecurity=False).hexdigest()
        self._objects[name] = _Object(content=body, etag=etag, modified=datetime.now(UTC))
        return 200, {"ETag": f'"{etag}"'}, b""

    def _upload_in_parts(
        self, method: str, name: str, query: dict[str, list[str]], headers: dict[str, str], body: bytes
    ) -> _Answer:
        """Begin, a part, the end, or nothing of it."""
        if "uploads" in query:
            upload = f"upload-{len(self._parts)}"
            self._parts[upload] = {}
            content = f"<InitiateMultipartUploadResult><UploadId>{upload}</UploadId></InitiateMultipartUploadResult>"
            return 200, {"Content-Type": "application/xml"}, content.encode()
        upload = query["uploadId"][0]
        if method == "PUT":
            part = _unchunked(body) if "aws-chunked" in headers.get("content-encoding", "") else body
            self._parts[upload][int(query["partNumber"][0])] = part
            return 200, {"ETag": f'"{hashlib.md5(part, usedforsecurity=False).hexdigest()}"'}, b""
        parts = self._parts.pop(upload, {})
        if method == "DELETE":
            return 204, {}, b""
        status, answer, refusal = self._put(name, headers, b"".join(parts[number] for number in sorted(parts)))
        if status != 200:
            return status, answer, refusal
        done = f"<CompleteMultipartUploadResult><ETag>{escape(answer['ETag'])}</ETag></CompleteMultipartUploadResult>"
        return 200, {"Content-Type": "application/xml"}, done.encode()

    def _get(self, name: str, headers: dict[str, str]) -> _Answer:
        found = self._objects.get(name)
        if found is None:
            return 404, {}, _error("NoSuchKey")
        answer = {"ETag": f'"{found.etag}"', "Last-Modified": format_datetime(found.modified, usegmt=True)}
        wanted = headers.get("range")
        if wanted is None:
            return 200, answer, found.content
        size = len(found.content)
        first_text, _, last_text = wanted.removeprefix("bytes=").partition("-")
        first = int(first_text) if first_text else max(0, size - int(last_text))
        last = min(size - 1, int(last_text)) if first_text and last_text else size - 1
        if first > last:
            return 416, {}, _error("InvalidRange")
        return 206, answer | {"Content-Range": f"bytes {first}-{last}/{size}"}, found.content[first : last + 1]

    def _list(self, bucket: str, query: dict[str, list[str]]) -> _Answer:
        if self._sorted is None:
            self._sorted = sorted(self._objects)
        names, limit = self._sorted, min(PAGE_KEYS, int(query.get("max-keys", [str(PAGE_KEYS)])[0]))
        root = f"{bucket}/"
        start = root + query.get("prefix", [""])[0]
        delimiter = query.get("delimiter", [""])[0]
        place = bisect.bisect_left(names, start)
        if "continuation-token" in query:
            place = int(query["continuation-token"][0])
        lines, folders = list[str](), dict[str, None]()
        while place < len(names) and names[place].startswith(start) and len(lines) + len(folders) < limit:
            name = names[place]
            if delimiter and delimiter in name[len(start) :]:
                folder = name[: name.index(delimiter, len(start)) + 1]
                folders[folder] = None
                place = bisect.bisect_left(names, folder[:-1] + chr(ord(delimiter) + 1), place)
                continue
            lines.append(_entry(name.removeprefix(root), self._objects[name]))
            place += 1
        more = place < len(names) and names[place].startswith(start)
        lines += [
            f"<CommonPrefixes><Prefix>{escape(folder.removeprefix(root))}</Prefix></CommonPrefixes>"
            for folder in folders
        ]
        token = f"<NextContinuationToken>{place}</NextContinuationToken>" if more else ""
        content = (
            '<?xml version="1.0" encoding="UTF-8"?><ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
            f"<Name>{bucket}</Name><IsTruncated>{str(more).lower()}</IsTruncated>{token}"
            f"<KeyCount>{len(lines)}</KeyCount>{''.join(lines)}</ListBucketResult>"
        )
        return 200, {"Content-Type": "application/xml"}, content.encode()


class _Connection(asyncio.Protocol):
    """One client connection: requests one after the other, each answered late."""

    def __init__(self, store: ObjectStore, latency_seconds: float) -> None:
        self._store, self._latency_seconds = store, latency_seconds
        self._buffer = bytearray()
        self._awaited = 0
        self._transport: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if len(self._buffer) < self._awaited:
            return
        while (end := self._buffer.find(b"\r\n\r\n")) >= 0:
            head = self._buffer[:end].decode("latin-1").split("\r\n")
            headers = {
                name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:])
            }
            if headers.get("expect", "").lower() == "100-continue" and len(self._buffer) == end + 4:
                self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            size = int(headers.get("content-length", "0"))
            self._awaited = end + 4 + size
            if len(self._buffer) < self._awaited:
                return
            self._awaited = 0
            body = bytes(self._buffer[end + 4 : end + 4 + size])
            del self._buffer[: end + 4 + size]
            method, target, _ = head[0].split(" ")
            asyncio.get_running_loop().call_later(self._latency_seconds, self._reply, method, target, headers, body)

    def _reply(self, method: str, target: str, headers: dict[str, str], body: bytes) -> None:
        status, answer, content = self._store.answer(method, target, headers, body)
        lines = [f"HTTP/1.1 {status} {_REASONS.get(status, 'Status')}", f"Content-Length: {len(content)}"]
        lines += [f"{name}: {value}" for name, value in answer.items()]
        text = ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")
        self._transport.write(text if method == "HEAD" else text + content)


_REASONS = {200: "OK", 204: "No Content", 206: "Partial Content", 404: "Not Found", 412: "Precondition Failed"}


def _entry(key: str, found: _Object) -> str:
    return (
        f"<Contents><Key>{escape(key)}</Key><LastModified>{found.modified.isoformat()}</LastModified>"
        f"<ETag>&quot;{found.etag}&quot;</ETag><Size>{len(found.content)}</Size>"
        "<StorageClass>STANDARD</StorageClass></Contents>"
    )


def _error(code: str) -> bytes:
    return f'<?xml version="1.0" encoding="UTF-8"?><Error><Code>{code}</Code><Message>{code}</Message></Error>'.encode()


def _unchunked(body: bytes) -> bytes:
    """What `aws-chunked` wraps: chunks, each after its size in hex, and trailers after the chunk of size 0."""
    content, place = bytearray(), 0
    while True:
        end = body.index(b"\r\n", place)
        size = int(body[place:end].split(b";")[0], 16)
        if size == 0:
            return bytes(content)
        content += body[end + 2 : end + 2 + size]
        place = end + 2 + size + 2


async def serve(*, port: int, latency_seconds: float) -> None:
    """Answer until SIGTERM; the first line printed is the port, the last the number of requests by kind."""
    store, loop, ended = ObjectStore(), asyncio.get_running_loop(), asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, ended.set)
    server = await loop.create_server(lambda: _Connection(store, latency_seconds), "127.0.0.1", port, backlog=4096)
    print(server.sockets[0].getsockname()[1], flush=True)
    await ended.wait()
    server.close()
    print(store.num_requests, flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m benchmarks.loopback_s3", description=__doc__)
    parser.add_argument("--port", type=int, default=0, help="0: any free one")
    parser.add_argument("--latency-ms", type=float, default=50.0)
    options = parser.parse_args()
    asyncio.run(serve(port=options.port, latency_seconds=options.latency_ms / 1000))
