"""A proxy in front of an S3 server that does to some requests what networks and stores do."""

import asyncio
import random
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Literal

Fault = Literal["503", "409", "501", "drop", "lose", "truncate", "flip", "ignore-condition"]
"""`drop` hangs up before the server sees a request, `lose` after it was carried out; `truncate`
and `flip` spoil the body of an answer; `ignore-condition` answers 200 where the server said 412."""

STATUS = {
    "503": ("Service Unavailable", "SlowDown"),
    "409": ("Conflict", "ConditionalRequestConflict"),
    "501": ("Not Implemented", "NotImplemented"),
}


@dataclass(frozen=True, slots=True)
class Request:
    method: str
    path: str
    """As sent, with the query."""
    headers: dict[str, str] = field(hash=False)
    """By name in lower case."""

    @property
    def conditional(self) -> bool:
        return "if-none-match" in self.headers


Choose = Callable[[Request], Fault | None]


def share(percent: int, faults: Sequence[Fault], seed: int) -> Choose:
    """Spoils a share of the requests, the same ones for the same seed and order."""
    generator = random.Random(seed)

    def choose(request: Request) -> Fault | None:
        return generator.choice(faults) if generator.random() < percent / 100 else None

    return choose


def first(number: int, fault: Fault, when: Callable[[Request], bool]) -> Choose:
    """Spoils the first requests of a sort, and lets all others pass."""
    left = [fault] * number

    def choose(request: Request) -> Fault | None:
        return left.pop() if left and when(request) else None

    return choose


class FaultProxy:
    """Passes requests on to 127.0.0.1:`port`, one connection each; `choose` says which to spoil."""

    def __init__(self, port: int) -> None:
        self.choose: Choose = lambda request: None
        self.delay = 0.0
        """Seconds by which each request is held up."""
        self.requests: list[Request] = []
        self.answered: list[tuple[Request, int]] = []
        """What was answered, and with which status."""
        self.injected: Counter[Fault] = Counter()
        self._upstream = port
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    def __enter__(self) -> "FaultProxy":
        self._thread.start()
        serving = asyncio.start_server(self._serve, "127.0.0.1", 0)
        self._server = asyncio.run_coroutine_threadsafe(serving, self._loop).result()
        self.endpoint = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._server.close)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    def count(self, method: str) -> int:
        return sum(request.method == method for request in self.requests)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, asyncio.IncompleteReadError):
            request, head, body = await self._read_request(reader, writer)
            self.requests.append(request)
            fault = self.choose(request)
            if fault:
                self.injected[fault] += 1
            await asyncio.sleep(self.delay)
            answer = await self._answer(fault, head + body, request)
            if answer:
                self.answered.append((request, int(answer.split(b" ", 2)[1])))
            writer.write(answer)
            await writer.drain()
        writer.close()

    async def _read_request(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> tuple[Request, bytes, bytes]:
        lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")[:-2]
        method, path, _ = lines[0].split(" ")
        headers = dict(line.split(": ", 1) for line in lines[1:])
        headers = {name.lower(): value for name, value in headers.items()}
        if headers.pop("expect", None):
            writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        if headers.get("transfer-encoding") == "chunked":
            body = b""
            while True:
                size = await reader.readuntil(b"\r\n")
                chunk = await reader.readexactly(int(size, 16) + 2)
                body += size + chunk
                if int(size, 16) == 0:
                    break
        else:
            body = await reader.readexactly(int(headers.get("content-length", 0)))
        # One request a connection: then the end of the connection is the end of the answer.
        sent = {**headers, "connection": "close"}
        head = lines[0] + "".join(f"\r\n{name}: {value}" for name, value in sent.items())
        return Request(method, path, headers), f"{head}\r\n\r\n".encode("latin-1"), body

    async def _answer(self, fault: Fault | None, sent: bytes, request: Request) -> bytes:
        if fault in STATUS:
            return _refusal(fault, request)
        if fault == "drop":
            return b""
        reader, writer = await asyncio.open_connection("127.0.0.1", self._upstream)
        writer.write(sent)
        answer = await reader.read()
        writer.close()
        head, separator, body = answer.partition(b"\r\n\r\n")
        if fault == "lose":
            return b""
        if fault == "truncate":
            return head + separator + body[: len(body) // 2]
        if fault == "flip" and body:
            return head + separator + body[:-1] + bytes([body[-1] ^ 1])
        if fault == "ignore-condition" and b" 412 " in head.partition(b"\r\n")[0]:
            return b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
        return answer


def _refusal(fault: str, request: Request) -> bytes:
    reason, code = STATUS[fault]
    body = f"<Error><Code>{code}</Code><Message>by the proxy</Message></Error>"
    head = (
        f"HTTP/1.1 {fault} {reason}\r\nConnection: close\r\nContent-Type: application/xml\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    # The answer to HEAD is that to GET, up to the body.
    return (head if request.method == "HEAD" else head + body).encode()
