"""A proxy in front of an S3 server that does to some requests what networks and stores do."""

import asyncio
import random
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Literal

from tests.support.certificates import Certificate

Fault = Literal[
    "400",
    "409",
    "411",
    "501",
    "503",
    "drop",
    "lose",
    "truncate",
    "flip",
    "ignore-condition",
    "silent",
    "swallow",
    "stall",
    "dribble",
]
"""`drop` hangs up before the server sees a request, `lose` after it was carried out; `truncate`
and `flip` spoil the body of an answer; `ignore-condition` answers 200 where the server said 412.

The others keep the connection open: `silent` sends nothing at all, no `100 Continue` either;
`swallow` takes the whole request, and sends nothing; `stall` sends the head of the answer, and
then nothing; `dribble` sends the answer a byte at a time, and never ends.
"""

SECONDS_A_BYTE = 0.5

STATUS = {
    "400": ("Bad Request", "MissingContentMD5"),
    "411": ("Length Required", "MissingContentLength"),
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
    """Passes requests on to 127.0.0.1:`port`, one connection each; `choose` says which to spoil.

    With a certificate (of `certificates.py`), it speaks https to those who ask.
    """

    def __init__(self, port: int, certificate: Certificate | None = None) -> None:
        self._certificate = certificate
        self.choose: Choose = lambda request: None
        self.instead: Callable[[Request], str | None] = lambda request: None
        """A body to answer with, status 200, and have the server never see the request."""
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
        context = self._certificate.context() if self._certificate else None
        serving = asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=context)
        self._server = asyncio.run_coroutine_threadsafe(serving, self._loop).result()
        scheme = "https" if context else "http"
        self.endpoint = f"{scheme}://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _end(self) -> None:
        """Stop serving. What is still served would else complain in the log of a later test."""
        self._server.close()
        served = asyncio.all_tasks() - {asyncio.current_task()}
        for one in served:
            one.cancel()
        await asyncio.gather(*served, return_exceptions=True)

    def count(self, method: str) -> int:
        return sum(request.method == method for request in self.requests)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, asyncio.IncompleteReadError):
            request, head = await self._read_head(reader)
            self.requests.append(request)
            fault = self.choose(request)
            if fault:
                self.injected[fault] += 1
            if fault == "silent":
                await _until_gone(reader)
                return
            body = await self._read_body(request, reader, writer)
            if fault == "swallow":
                await _until_gone(reader)
                return
            await asyncio.sleep(self.delay)
            instead = self.instead(request)
            if instead is not None:
                writer.write(_answer_of("200 OK", instead))
                await writer.drain()
                writer.close()
                return
            answer = await self._answer(fault, head + body, request)
            if fault == "stall":
                writer.write(answer.partition(b"\r\n\r\n")[0] + b"\r\n\r\n")
                await _until_gone(reader)
                return
            if fault == "dribble":
                await _dribble(answer, writer)
                return
            if answer:
                self.answered.append((request, int(answer.split(b" ", 2)[1])))
            writer.write(answer)
            await writer.drain()
        writer.close()

    async def _read_head(self, reader: asyncio.StreamReader) -> tuple[Request, bytes]:
        """A request, and what of its head is passed on."""
        lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")[:-2]
        method, path, _ = lines[0].split(" ")
        headers = dict(line.split(": ", 1) for line in lines[1:])
        headers = {name.lower(): value for name, value in headers.items()}
        # One request a connection: then the end of the connection is the end of the answer.
        sent = {**headers, "connection": "close"}
        sent.pop("expect", None)
        head = lines[0] + "".join(f"\r\n{name}: {value}" for name, value in sent.items())
        return Request(method, path, headers), f"{head}\r\n\r\n".encode("latin-1")

    async def _read_body(
        self, request: Request, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> bytes:
        if "expect" in request.headers:
            writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        if request.headers.get("transfer-encoding") != "chunked":
            return await reader.readexactly(int(request.headers.get("content-length", 0)))
        body = b""
        while True:
            size = await reader.readuntil(b"\r\n")
            chunk = await reader.readexactly(int(size, 16) + 2)
            body += size + chunk
            if int(size, 16) == 0:
                return body

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


async def _until_gone(reader: asyncio.StreamReader) -> None:
    """Wait until the client hangs up."""
    while await reader.read(2**16):
        pass


async def _dribble(answer: bytes, writer: asyncio.StreamWriter) -> None:
    head, separator, body = answer.partition(b"\r\n\r\n")
    writer.write(head + separator)
    # All but the last byte, so that it never is whole.
    for byte in body[:-1]:
        writer.write(bytes([byte]))
        await writer.drain()
        await asyncio.sleep(SECONDS_A_BYTE)
    while True:
        await asyncio.sleep(SECONDS_A_BYTE)


def _refusal(fault: str, request: Request) -> bytes:
    reason, code = STATUS[fault]
    answer = _answer_of(
        f"{fault} {reason}", f"<Error><Code>{code}</Code><Message>by the proxy</Message></Error>"
    )
    # The answer to HEAD is that to GET, up to the body.
    return answer.partition(b"<Error>")[0] if request.method == "HEAD" else answer


def _answer_of(status: str, body: str) -> bytes:
    return (
        f"HTTP/1.1 {status}\r\nConnection: close\r\nContent-Type: application/xml\r\n"
        f"Content-Length: {len(body)}\r\n\r\n{body}"
    ).encode()
