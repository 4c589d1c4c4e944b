"""What a Harbor under load does to an ingress: webhooks over kept-alive connections, each sent when its predecessor is answered.

The client shares the machine with the ingress and the broker, so it is made to cost little: requests are bytes made beforehand,
of the answer it reads the status and the length.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
from collections import Counter
from collections.abc import Iterator
from itertools import cycle
from typing import Any, cast
from urllib.parse import urlsplit

import uvloop

from benchmarks import usage
from shared.oci.digest import Digest
from shared.oci.reference import Reference
from shared.planning import PushEvent

HOST = "harbor.example.com"
PROJECT, NAME = "team", "service"


def body(number: int) -> bytes:
    """Harbor's Default body of one push; another number is another push."""
    tag = f"v1.{number}"
    document = {
        "type": "PUSH_ARTIFACT",
        "occur_at": 1_700_000_000 + number,
        "operator": "robot$ci",
        "event_data": {
            "resources": [
                {"digest": digest(number), "tag": tag, "resource_url": f"{HOST}/{PROJECT}/{NAME}:{tag}"},
            ],
            "repository": {
                "date_created": 1_700_000_000,
                "name": NAME,
                "namespace": PROJECT,
                "repo_full_name": f"{PROJECT}/{NAME}",
                "repo_type": "private",
            },
        },
    }
    return json.dumps(document, separators=(",", ":")).encode()


def digest(number: int) -> Digest:
    return Digest.of(str(number).encode())


def push_event(number: int) -> PushEvent:
    """What the ingress reads out of :func:`body`."""
    source = Reference(HOST, f"{PROJECT}/{NAME}", f"v1.{number}", digest(number))
    event_id = hashlib.sha256(body(number)).hexdigest()[:32]
    return PushEvent(event_id=event_id, kind="PUSH_ARTIFACT", reference=source, operator="robot$ci")


def load(arguments: dict[str, Any]) -> dict[str, Any]:
    """Send ``count`` webhooks, numbered from ``first``, over ``connections`` that ``urls`` take in turns; what was answered, and
    how fast.
    """
    return uvloop.run(_load(arguments))


async def _load(arguments: dict[str, Any]) -> dict[str, Any]:
    urls = [urlsplit(url) for url in arguments["urls"]]
    first, count = arguments["first"], arguments["count"]
    host, path = urls[0].netloc, urls[0].path
    requests = iter([_request(host, path, body(number)) for number in range(first, first + count)])
    loop = asyncio.get_running_loop()
    senders = [_Sender(requests, loop.create_future()) for _ in range(min(arguments["connections"], count))]
    for sender, url in zip(senders, cycle(urls), strict=False):
        await _connect(sender, url.hostname, url.port)
    before, start = usage.cpu_seconds(), time.perf_counter()
    for sender in senders:
        sender.send()
    async with asyncio.timeout(300):
        await asyncio.gather(*(sender.done for sender in senders))
    wall = time.perf_counter() - start
    statuses = Counter(status for sender in senders for status, _ in sender.answers)
    times = sorted(seconds for sender in senders for _, seconds in sender.answers)
    return {
        "wall": wall,
        "accepted": statuses[202],
        "refused": count - statuses[202],
        "rate": statuses[202] / wall,
        "p50": times[len(times) // 2],
        "p99": times[min(len(times) - 1, len(times) * 99 // 100)],
        "slowest": times[-1],
        "client_cpu": usage.cpu_seconds() - before,
    }


async def _connect(sender: _Sender, host: str, port: int) -> None:
    await asyncio.get_running_loop().create_connection(lambda: sender, host, port)


def _request(host: str, path: str, content: bytes) -> bytes:
    head = f"POST {path} HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
    return head.encode() + content


class _Sender(asyncio.Protocol):
    """One connection."""

    def __init__(self, requests: Iterator[bytes], done: asyncio.Future[None]) -> None:
        self._requests = requests
        self._buffer = b""
        self._sent = 0.0
        self.done = done
        self.answers: list[tuple[int, float]] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is none by inheritance

    def send(self) -> None:
        """The next one, if any is left."""
        if (request := next(self._requests, None)) is None:
            self._transport.close()
            if not self.done.done():
                self.done.set_result(None)
            return
        self._sent = time.perf_counter()
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head, blank, rest = self._buffer.partition(b"\r\n\r\n")
        if not blank:
            return
        lines = head.lower().split(b"\r\n")
        length = next(int(line[15:]) for line in lines if line.startswith(b"content-length:"))
        if len(rest) < length:
            return
        self._buffer = rest[length:]
        self.answers.append((int(head[9:12]), time.perf_counter() - self._sent))
        self.send()

    def connection_lost(self, error: Exception | None) -> None:
        if not self.done.done():
            self.done.set_exception(error or ConnectionError("the ingress closed the connection"))
