"""The objects of the loopback store, and its answers to the requests of S3 that publishing to a bucket makes."""

import bisect
import hashlib
import re
import time
from collections import deque
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import format_datetime
from urllib.parse import parse_qs, unquote
from xml.sax.saxutils import escape

from benchmarks.loopback_faults import Faults

__all__ = ["Answer", "ObjectStore", "error_text", "kind_of"]

Answer = tuple[int, dict[str, str], bytes]
"""Status, headers and body."""

PAGE_KEYS = 1000
"""Keys in one page of a listing: S3 gives no more."""
REMEMBERED_REQUESTS = 100_000


@dataclass(frozen=True, slots=True)
class _Object:
    content: bytes
    etag: str
    modified: datetime


def kind_of(method: str, target: str) -> tuple[str, str]:
    """The kind of a request (`LIST` beside the methods) and the bucket and key it names."""
    path, _, query = target.partition("?")
    return ("LIST" if method == "GET" and "list-type=" in query else method), unquote(path).strip("/")


class ObjectStore:
    """Objects by bucket and key, and the answers to requests for them."""

    def __init__(self, faults: Faults | None = None) -> None:
        self.faults = Faults() if faults is None else faults
        self.num_requests: dict[str, int] = {}
        self.requests = deque[str](maxlen=REMEMBERED_REQUESTS)
        """`KIND bucket/key` of each request, whatever became of it; a listing names `bucket?prefix`."""
        self._objects: dict[str, _Object] = {}
        self._sorted: list[str] | None = []
        self._parts: dict[str, dict[int, bytes]] = {}
        self._num_uploads = 0
        self._changes = deque[tuple[float, str, _Object | None]]()
        """When which name was changed, and what listings that lag behind still show there."""

    @property
    def num_open_uploads(self) -> int:
        """Uploads in parts that were begun and neither ended nor given up: what a bucket's owner goes on paying for."""
        return len(self._parts)

    def note(self, kind: str, name: str, target: str) -> None:
        """Count a request."""
        self.num_requests[kind] = self.num_requests.get(kind, 0) + 1
        shown = f"{name}?{parse_qs(target.partition('?')[2]).get('prefix', [''])[0]}" if kind == "LIST" else name
        self.requests.append(f"{kind} {shown}")

    def answer(self, method: str, target: str, headers: dict[str, str], body: bytes) -> Answer:
        """Status, headers and body for one request."""
        kind, name = kind_of(method, target)
        query = parse_qs(target.partition("?")[2], keep_blank_values=True)
        if kind == "LIST":
            return self._list(name, query)
        if kind == "POST" and "delete" in query:
            return self._delete_many(name, body)
        if "/" not in name:  # of the bucket itself
            return 200, {}, b""
        if "uploads" in query or "uploadId" in query:
            return self._upload_in_parts(method, name, query, headers, body)
        if method == "PUT":
            return self._put(name, headers, body)
        if method == "DELETE":
            self._remove(name)
            return 204, {}, b""
        return self._get(name, headers)

    def _put(self, name: str, headers: dict[str, str], body: bytes) -> Answer:
        if headers.get("if-none-match") == "*" and name in self._objects:
            if not self.faults.rates.unconditional:
                return 412, {}, error_text("PreconditionFailed")
            self.faults.count("overwritten")
        if "aws-chunked" in headers.get("content-encoding", ""):
            body = _unchunked(body)
        etag = hashlib.md5(body, usedforsecurity=False).hexdigest()
        self._change(name, _Object(content=body, etag=etag, modified=datetime.now(UTC)))
        return 200, {"ETag": f'"{etag}"'}, b""

    def _remove(self, name: str) -> None:
        if name in self._objects:
            self._change(name, None)

    def _change(self, name: str, to: _Object | None) -> None:
        before = self._objects.get(name)
        if self.faults.rates.stale_seconds > 0:
            self._changes.append((time.monotonic(), name, before))
        if to is None:
            del self._objects[name]
        else:
            self._objects[name] = to
        if (before is None) != (to is None):
            self._sorted = None

    def _delete_many(self, bucket: str, body: bytes) -> Answer:
        for key in re.findall(rb"<Key>([^<]*)</Key>", body):
            self._remove(f"{bucket}/{key.decode()}")
        return 200, {"Content-Type": "application/xml"}, b"<DeleteResult></DeleteResult>"

    def _upload_in_parts(
        self, method: str, name: str, query: dict[str, list[str]], headers: dict[str, str], body: bytes
    ) -> Answer:
        """Begin, a part, the end, or nothing of it."""
        if "uploads" in query:
            self._num_uploads += 1
            upload = f"upload-{self._num_uploads}"
            self._parts[upload] = {}
            content = f"<InitiateMultipartUploadResult><UploadId>{upload}</UploadId></InitiateMultipartUploadResult>"
            return 200, {"Content-Type": "application/xml"}, content.encode()
        upload = query["uploadId"][0]
        parts = self._parts.get(upload)
        if parts is None:  # ended before, by a request whose answer was lost
            return 404, {}, error_text("NoSuchUpload")
        if method == "PUT":
            part = _unchunked(body) if "aws-chunked" in headers.get("content-encoding", "") else body
            parts[int(query["partNumber"][0])] = part
            return 200, {"ETag": f'"{hashlib.md5(part, usedforsecurity=False).hexdigest()}"'}, b""
        if method == "DELETE":
            del self._parts[upload]
            return 204, {}, b""
        wanted = [int(number) for number in re.findall(rb"<PartNumber>(\d+)</PartNumber>", body)]
        if not wanted or not parts.keys() >= set(wanted):
            return 400, {}, error_text("InvalidPart")
        status, answer, refusal = self._put(name, headers, b"".join(parts[number] for number in sorted(wanted)))
        if status != 200:
            return status, answer, refusal
        del self._parts[upload]
        done = f"<CompleteMultipartUploadResult><ETag>{escape(answer['ETag'])}</ETag></CompleteMultipartUploadResult>"
        return 200, {"Content-Type": "application/xml"}, done.encode()

    def _get(self, name: str, headers: dict[str, str]) -> Answer:
        found = self._objects.get(name)
        if found is None:
            return 404, {}, error_text("NoSuchKey")
        answer = {"ETag": f'"{found.etag}"', "Last-Modified": format_datetime(found.modified, usegmt=True)}
        wanted = headers.get("range")
        if wanted is None:
            return 200, answer, found.content
        size = len(found.content)
        first_text, _, last_text = wanted.removeprefix("bytes=").partition("-")
        first = int(first_text) if first_text else max(0, size - int(last_text))
        last = min(size - 1, int(last_text)) if first_text and last_text else size - 1
        if first > last:
            return 416, {}, error_text("InvalidRange")
        return 206, answer | {"Content-Range": f"bytes {first}-{last}/{size}"}, found.content[first : last + 1]

    def _listed(self) -> tuple[list[str], dict[str, _Object]]:
        """Names in order and the objects of a listing: as they are, or as they were a while ago."""
        expired = time.monotonic() - self.faults.rates.stale_seconds
        while self._changes and self._changes[0][0] <= expired:
            self._changes.popleft()
        if not self._changes:
            if self._sorted is None:
                self._sorted = sorted(self._objects)
            return self._sorted, self._objects
        self.faults.count("stale_listing")
        objects = dict(self._objects)
        for _, name, before in reversed(self._changes):
            if before is None:
                objects.pop(name, None)
            else:
                objects[name] = before
        return sorted(objects), objects

    def _list(self, bucket: str, query: dict[str, list[str]]) -> Answer:
        names, objects = self._listed()
        limit = min(PAGE_KEYS, int(query.get("max-keys", [str(PAGE_KEYS)])[0]))
        root = f"{bucket}/"
        start = root + query.get("prefix", [""])[0]
        delimiter = query.get("delimiter", [""])[0]
        place = bisect.bisect_left(names, start)
        if "continuation-token" in query:  # the name before the next page: names come and go between two pages
            place = bisect.bisect_right(names, query["continuation-token"][0])
        lines, folders, last = list[str](), dict[str, None](), ""
        while place < len(names) and names[place].startswith(start) and len(lines) + len(folders) < limit:
            name = names[place]
            if delimiter and delimiter in name[len(start) :]:
                folder = name[: name.index(delimiter, len(start)) + 1]
                folders[folder] = None
                place = bisect.bisect_left(names, folder[:-1] + chr(ord(delimiter) + 1), place)
            else:
                lines.append(_entry(name.removeprefix(root), objects[name]))
                place += 1
            last = names[place - 1]
        more = place < len(names) and names[place].startswith(start)
        lines += [
            f"<CommonPrefixes><Prefix>{escape(folder.removeprefix(root))}</Prefix></CommonPrefixes>"
            for folder in folders
        ]
        token = f"<NextContinuationToken>{escape(last)}</NextContinuationToken>" if more else ""
        content = (
            '<?xml version="1.0" encoding="UTF-8"?><ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
            f"<Name>{bucket}</Name><IsTruncated>{str(more).lower()}</IsTruncated>{token}"
            f"<KeyCount>{len(lines)}</KeyCount>{''.join(lines)}</ListBucketResult>"
        )
        return 200, {"Content-Type": "application/xml"}, content.encode()


def error_text(code: str) -> bytes:
    """The body of an answer that refuses."""
    return f'<?xml version="1.0" encoding="UTF-8"?><Error><Code>{code}</Code><Message>{code}</Message></Error>'.encode()


def _entry(key: str, found: _Object) -> str:
    return (
        f"<Contents><Key>{escape(key)}</Key><LastModified>{found.modified.isoformat()}</LastModified>"
        f"<ETag>&quot;{found.etag}&quot;</ETag><Size>{len(found.content)}</Size>"
        "<StorageClass>STANDARD</StorageClass></Contents>"
    )


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
