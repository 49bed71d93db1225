"""An object store on this machine that answers as S3 does, a set time late, and as badly as it is told to.

    python -m benchmarks.loopback_s3 --port 9000 --latency-ms 50
    python -m benchmarks.loopback_s3 --latency-ms 2 --errors 0.05 --cuts 0.01 --late 0.05 --late-ms 300 --seed 1

One asyncio process with all objects in memory: PUT (with `If-None-Match: *`, whole or in parts), GET (with ranges),
HEAD, DELETE and ListObjectsV2 of any bucket; signatures are not checked. It exists because a server written for tests
costs more CPU than the clients that are measured (moto: 3.4 ms a request, this one 0.15). Each request is answered
`latency` after its last byte came, so that any number may be under way at once, as with the real one.

`GET /_faults` gives requests and faults by kind as JSON, `PUT /_faults` takes other rates from then on
(`{"errors": 0.05, "rules": [{"method": "PUT", "key": "_commits/", "fault": "cut_after", "times": 1}]}`; `{}` is calm),
`GET /_requests` gives `["PUT bucket/key", ...]` since it was last asked. None of these is counted or fails.
"""

import argparse
import asyncio
import json
import signal
from dataclasses import fields
from typing import Any

from benchmarks.loopback_faults import CALM, FaultRates, Faults
from benchmarks.loopback_objects import Answer, ObjectStore, error_text, kind_of

__all__ = ["serve"]

_REASONS = {200: "OK", 204: "No Content", 206: "Partial Content", 404: "Not Found", 412: "Precondition Failed"}
_JSON = {"Content-Type": "application/json"}


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
            self._take(method, target, headers, body)

    def _take(self, method: str, target: str, headers: dict[str, str], body: bytes) -> None:
        """Draw the fault of a request, and do and answer it when its time has come."""
        kind, name = kind_of(method, target)
        if name in ("_faults", "_requests"):
            self._send(method, _told(self._store, method, name, body))
            return
        self._store.note(kind, name, target)
        fault, later = self._store.faults.draw(kind, name), asyncio.get_running_loop().call_later
        late_seconds = self._store.faults.rates.late_ms / 1000 if fault in ("late_before", "late_after") else 0.0

        def work() -> None:
            if fault == "cut_before":
                self._transport.abort()
                return
            answer = _refused(fault) or self._store.answer(method, target, headers, body)
            if fault == "internal_error_after":
                answer = 500, {}, error_text("InternalError")
            if fault == "late_after":
                later(late_seconds, self._send, method, answer)
            else:
                self._send(method, answer, fault=fault)

        later(self._latency_seconds + (late_seconds if fault == "late_before" else 0.0), work)

    def _send(self, method: str, answered: Answer, *, fault: str | None = None) -> None:
        if self._transport.is_closing():  # the client gave up
            return
        if fault == "cut_after":
            self._transport.abort()
            return
        status, answer, content = answered
        lines = [f"HTTP/1.1 {status} {_REASONS.get(status, 'Status')}", f"Content-Length: {len(content)}"]
        lines += [f"{name}: {value}" for name, value in answer.items()]
        text = ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")
        text = text if method == "HEAD" else text + content
        if fault == "cut_within":
            self._transport.write(text[: len(text) // 2])
            self._transport.close()
            return
        self._transport.write(text)


def _refused(fault: str | None) -> Answer | None:
    if fault == "slow_down":
        return 503, {}, error_text("SlowDown")
    if fault == "conflict":
        return 409, {}, error_text("ConditionalRequestConflict")
    if fault == "forbidden":
        return 403, {}, error_text("AccessDenied")
    return (500, {}, error_text("InternalError")) if fault == "internal_error" else None


def _told(store: ObjectStore, method: str, name: str, body: bytes) -> Answer:
    """What the server says of itself, and what it is told to do from now on."""
    if name == "_requests":
        requests = list(store.requests)
        store.requests.clear()
        return 200, _JSON, json.dumps(requests).encode()
    if method == "PUT":
        try:
            store.faults.change(json.loads(body or b"{}"))
        except (ValueError, TypeError, KeyError) as error:
            return 400, {}, str(error).encode()
    return 200, _JSON, json.dumps(_facts(store)).encode()


def _facts(store: ObjectStore) -> dict[str, Any]:
    return {"requests": store.num_requests, **store.faults.facts(), "open_uploads": store.num_open_uploads}


async def serve(*, port: int, latency_seconds: float, rates: FaultRates = CALM, seed: int = 0) -> None:
    """Answer until SIGTERM; the first line printed is the port, the last ones the requests and the faults by kind."""
    store, loop, ended = ObjectStore(Faults(rates=rates, seed=seed)), asyncio.get_running_loop(), asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, ended.set)
    server = await loop.create_server(lambda: _Connection(store, latency_seconds), "127.0.0.1", port, backlog=4096)
    print(server.sockets[0].getsockname()[1], flush=True)
    await ended.wait()
    server.close()
    print(store.num_requests, flush=True)
    if store.faults.counts:
        print("faults", store.faults.counts, flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.loopback_s3", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--port", type=int, default=0, help="0: any free one")
    parser.add_argument("--latency-ms", type=float, default=50.0)
    parser.add_argument("--seed", type=int, default=0, help="of the faults")
    parser.add_argument("--errors", type=float, default=0.0, help="share of requests answered by 500 or 503 SlowDown")
    parser.add_argument("--cuts", type=float, default=0.0, help="share cut off, half of them after the work was done")
    parser.add_argument("--late", type=float, default=0.0, help="share answered --late-ms later")
    parser.add_argument("--late-ms", type=float, default=CALM.late_ms)
    parser.add_argument("--stale-seconds", type=float, default=0.0, help="how far listings lag behind")
    parser.add_argument("--unconditional", action="store_true", help="ignore If-None-Match, overwrite without a word")
    return parser


if __name__ == "__main__":
    options = _parser().parse_args()
    chosen = FaultRates(**{rate.name: getattr(options, rate.name) for rate in fields(FaultRates)})
    asyncio.run(serve(port=options.port, latency_seconds=options.latency_ms / 1000, rates=chosen, seed=options.seed))
