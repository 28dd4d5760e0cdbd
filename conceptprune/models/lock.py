"""One user at a time changes a live model: threads wait, and tasks of one thread are refused.

A thread waits until the model is free, and may enter again. Tasks of an event loop share their
thread: if one is suspended inside, another that waited would stop both, and one that went ahead
would get images of both tasks' masks.
"""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from typing import Any
from weakref import WeakKeyDictionary

from torch import nn

from conceptprune.errors import UserError
from conceptprune.models.wrappers import unwrapped

_inside: ContextVar[frozenset[object]] = ContextVar("conceptprune_inside", default=frozenset())
"""Entrances of the code that runs here. A thread of a pool has those of its present job alone."""
_locks: "WeakKeyDictionary[nn.Module, _ModelLock]" = WeakKeyDictionary()
_locks_guard = threading.Lock()


@contextmanager
def exclusively(pipe: Any, *, reads: bool = False) -> Iterator[None]:
    """Keep others from changing the models of `pipe`, a pipeline or one module, in this context.

    `reads` says that this one changes nothing and suspends nowhere, so that it may look at what a
    suspended task of the same thread has made.

    Raises:
        UserError: a suspended task of the same thread is inside (unless `reads`).
    """
    with ExitStack() as held:
        for lock in _locks_of(pipe):
            lock.enter(reads=reads)
            held.callback(lock.leave)
        yield


@contextmanager
def writing(pipe: Any) -> Iterator[None]:
    """Keep other threads from writing to the models of `pipe` for a moment, whoever uses them.

    A use may generate in another thread, which must be able to switch masks meanwhile.
    """
    with ExitStack() as held:
        for lock in _locks_of(pipe):
            held.enter_context(lock.writing)
        yield


def _locks_of(pipe: Any) -> "list[_ModelLock]":
    parts = [pipe] if isinstance(pipe, nn.Module) else list(vars(pipe).values())
    owners = {unwrapped(part) for part in parts if isinstance(part, nn.Module)}
    with _locks_guard:
        # All threads take several locks in the same order, so that there is no deadlock.
        return [_locks.setdefault(owner, _ModelLock()) for owner in sorted(owners, key=id)]


class _ModelLock:
    """Like `threading.RLock`, but it knows tasks, and another thread may leave it.

    Frameworks may run the end of a `with` block in another thread than its beginning.
    """

    def __init__(self) -> None:
        self.writing = threading.RLock()
        self._free = threading.Condition()
        self._depth = 0
        self._thread: threading.Thread | None = None
        self._task: object = None
        self._entrance: object = None

    def enter(self, *, reads: bool) -> None:
        thread, task = threading.current_thread(), _current_task()
        with self._free:
            while self._depth:
                if thread is self._thread:
                    again = task is self._task and self._entrance in _inside.get()
                    if not (again or reads):
                        raise UserError(
                            "another task of this thread is suspended in the middle of its use of "
                            "this model, such as `with mask.applied(pipe)`: run each whole block "
                            "in a thread of its own (await asyncio.to_thread(...)), where it "
                            "waits, or hold one asyncio.Lock around them"
                        )
                    self._depth += 1
                    return
                self._free.wait()
            self._depth = 1
            self._thread, self._task, self._entrance = thread, task, object()
            _inside.set(_inside.get() | {self._entrance})

    def leave(self) -> None:
        with self._free:
            self._depth -= 1
            if not self._depth:
                _inside.set(_inside.get() - {self._entrance})
                self._thread = self._task = self._entrance = None
                self._free.notify()


def _current_task() -> object:
    try:
        return asyncio.current_task()
    except RuntimeError:  # No event loop runs in this thread.
        return None
