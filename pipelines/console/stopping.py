"""Stopping commands: print one line, and exit with the code that a shell expects for the signal."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from typer.core import TyperGroup

from conceptprune.redaction import redacted

from . import exits
from .logs import tell_end
from .terminal import harmless


class Stopped(SystemExit):
    """A signal has asked this process to stop; clean-up on the way out runs as for any exit."""

    def __init__(self, name: str, code: int) -> None:
        super().__init__(code)
        self.name = name


class Commands(TyperGroup):
    """The commands; Ctrl-C ends one like a signal, and what the parser says is free of secrets."""

    def make_context(self, *args: Any, **options: Any) -> Any:
        """Read the options before the command."""
        with _without_secrets():
            return super().make_context(*args, **options)

    def invoke(self, ctx: Any) -> Any:
        """Run the command."""
        try:
            with _without_secrets():
                return super().invoke(ctx)
        except KeyboardInterrupt:
            raise Stopped("SIGINT", exits.INTERRUPTED) from None


@contextmanager
def _without_secrets() -> Iterator[None]:
    """The parser prints its errors itself, and they repeat what was typed."""
    try:
        yield
    except Exception as error:
        # Its class is click's or typer's own copy of it, depending on typer's version.
        message = getattr(error, "message", None)
        if hasattr(error, "format_message") and isinstance(message, str):
            vars(error).update(message=harmless(redacted(message)))
        raise


@contextmanager
def stops_with_a_line() -> Iterator[None]:
    """Inside the context, SIGTERM raises `Stopped`; one line says what stopped the process.

    A second SIGTERM ends the process at once.
    """
    main = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGTERM, _on_sigterm) if main else None
    try:
        yield
    except Stopped as stopped:
        tell_end(
            f"stopped by {stopped.name}: what was finished is kept, and the same command goes on "
            "from there"
        )
        raise
    finally:
        if main:
            signal.signal(signal.SIGTERM, before or signal.SIG_DFL)


@contextmanager
def sigterm_as_before() -> Iterator[None]:
    """Restore the SIGTERM handler after the context: `ray.init` would replace it."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before or signal.SIG_DFL)


def _on_sigterm(number: int, frame: FrameType | None) -> None:
    signal.signal(number, signal.SIG_DFL)
    raise Stopped("SIGTERM", exits.TERMINATED)
