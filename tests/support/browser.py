"""Headless Chromium over its DevTools pipe: real layout, colours and messages of a page."""

import base64
import fcntl
import json
import os
import select
import shutil
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome")
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-extensions",
    "--hide-scrollbars",
    "--remote-debugging-pipe",
)
SECONDS = 30.0
KEYS: dict[str, tuple[int, dict[str, str]]] = {
    "Tab": (9, {}),
    "Enter": (13, {"text": "\r"}),
    "End": (35, {}),
    "Home": (36, {}),
    "ArrowLeft": (37, {}),
    "ArrowRight": (39, {}),
}
"""Virtual key codes, which the browser's own controls go by, and what a key types."""


class Browser:
    """One browser process with one page."""

    def __init__(self, profile: Path) -> None:
        executable = next(filter(None, map(shutil.which, NAMES)), None)
        if executable is None:
            pytest.fail("the report is checked in Chromium: apt-get install chromium")
        self._to, self._from, self._pid = _spawn([executable, *FLAGS, f"--user-data-dir={profile}"])
        self._buffer = b""
        self._number = 0
        self._session: str | None = None
        self.messages: list[str] = []
        """What the page logged, and what it asked the network for."""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        os.kill(self._pid, signal.SIGTERM)
        os.waitpid(self._pid, 0)
        os.close(self._to)
        os.close(self._from)

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        answer = self._until(lambda heard: heard.get("id") == self._number)
        if "error" in answer:
            raise RuntimeError(f"{method}: {answer['error']}")
        result: dict[str, Any] = answer["result"]
        return result

    def open(self, page: Path, *, width: int, dark: bool = False, fragment: str = "") -> None:
        # From elsewhere, because from the page itself a fragment would only be a jump.
        self.call("Page.navigate", url="about:blank")
        self._until(lambda heard: heard.get("method") == "Page.loadEventFired")
        self.messages.clear()
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=844,
            deviceScaleFactor=1,
            mobile=width < 600,
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        self.call("Page.navigate", url=page.as_uri() + (f"#{fragment}" if fragment else ""))
        self._until(lambda heard: heard.get("method") == "Page.loadEventFired")

    def value(self, expression: str) -> Any:
        """What a JavaScript expression is, by value."""
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        if "exceptionDetails" in answer:
            raise RuntimeError(f"{expression}: {answer['exceptionDetails']}")
        return answer["result"].get("value")

    def press(self, key: str) -> None:
        number, text = KEYS[key]
        event: dict[str, Any] = {"key": key, "code": key, "windowsVirtualKeyCode": number}
        self.call("Input.dispatchKeyEvent", type="keyDown", **event, **text)
        self.call("Input.dispatchKeyEvent", type="keyUp", **event)

    def type(self, text: str) -> None:
        """Into what has the focus."""
        self.call("Input.insertText", text=text)

    def screenshot(self, to: Path, *, whole: bool = True) -> None:
        shot = self.call("Page.captureScreenshot", captureBeyondViewport=whole)
        to.write_bytes(base64.b64decode(shot["data"]))

    def _until(self, wanted: Any) -> dict[str, Any]:
        deadline = time.monotonic() + SECONDS
        while True:
            while b"\0" not in self._buffer:
                left = deadline - time.monotonic()
                if left < 0 or not select.select([self._from], [], [], left)[0]:
                    raise TimeoutError("Chromium does not answer")
                data = os.read(self._from, 1 << 16)
                if not data:
                    raise RuntimeError("Chromium has ended")
                self._buffer += data
            message, self._buffer = self._buffer.split(b"\0", 1)
            heard: dict[str, Any] = json.loads(message)
            self._note(heard)
            if wanted(heard):
                return heard

    def _note(self, heard: dict[str, Any]) -> None:
        params = heard.get("params", {})
        match heard.get("method"):
            case "Log.entryAdded":
                self.messages.append(f"log: {params['entry']['text']}")
            case "Runtime.consoleAPICalled" | "Runtime.exceptionThrown":
                self.messages.append(f"console: {params}")
            case "Network.requestWillBeSent":
                url = params["request"]["url"]
                if not url.startswith(("file:", "data:")):
                    self.messages.append(f"request: {url}")


def _spawn(command: list[str]) -> tuple[int, int, int]:
    """Start Chromium with its DevTools pipe on descriptors 3 and 4: (write to, read from, pid)."""
    their_in, to = map(_high, os.pipe())
    back, their_out = map(_high, os.pipe())
    pid = os.posix_spawn(
        command[0],
        command,
        os.environ,
        file_actions=[
            (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0),
            (os.POSIX_SPAWN_OPEN, 2, os.devnull, os.O_WRONLY, 0),
            (os.POSIX_SPAWN_DUP2, their_in, 3),
            (os.POSIX_SPAWN_DUP2, their_out, 4),
        ],
    )
    os.close(their_in)
    os.close(their_out)
    return to, back, pid


def _high(descriptor: int) -> int:
    """The same file on a descriptor that is out of the way of 3 and 4."""
    high = fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, 10)
    os.close(descriptor)
    return high


@contextmanager
def chromium(profile: Path) -> Iterator[Browser]:
    with Browser(profile) as browser:
        yield browser
