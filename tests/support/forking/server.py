"""A process that has loaded what is heavy, and forks to do what other processes were started for.

Tests start many processes that need torch, transformers and diffusers: drivers of jobs, and Ray's
workers. To import these takes 6 s of a core each time. A fork has them already. It is else as if it
had been started: its arguments, environment, folder, open files and modules of this project and of
Ray are its own. See `sitecustomize` for the other side. A process that differs in what a fork
cannot take over imports for itself, as does every one with `TESTS_FORK_SERVERS` unset.

Run as `python -m tests.support.forking.server ADDRESS MODULE...`, on Linux only.
"""

import fcntl
import gc
import importlib
import io
import os
import random
import selectors
import signal
import socket
import sys
import types
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from . import messages


@dataclass
class Fork:
    pid: int
    connection: socket.socket


def serve(address: Path, own: Mapping[str, object]) -> tuple[messages.Job, list[int]]:
    """Fork for everyone in the same surroundings who asks. Returns in the forks only."""
    selector = selectors.DefaultSelector()
    listener = socket.socket(socket.AF_UNIX)
    starting = address.with_suffix(".starting")
    listener.bind(f"{starting}")
    listener.listen(64)
    starting.rename(address)
    selector.register(listener, selectors.EVENT_READ)
    selector.register(sys.stdin, selectors.EVENT_READ)
    forks: dict[int, Fork] = {}
    while True:
        for key, _ in selector.select():
            if key.fileobj is sys.stdin:  # Closed: whoever started this has ended.
                for fork in forks.values():
                    os.kill(fork.pid, signal.SIGKILL)
                raise SystemExit
            if key.fileobj is listener:
                connection, _ = listener.accept()
                try:
                    job, fds = messages.Job.receive(connection)
                except (OSError, ValueError):
                    connection.close()
                    continue
                if job.surroundings != own:
                    for fd in fds:
                        os.close(fd)
                    connection.close()
                    continue
                pid = os.fork()
                if pid == 0:
                    listener.close()
                    connection.close()
                    selector.close()
                    for ended, fork in forks.items():
                        os.close(ended)
                        fork.connection.close()
                    return job, fds
                for fd in fds:
                    os.close(fd)
                with suppress(OSError):
                    messages.send_number(connection, pid)
                fork = Fork(pid, connection)
                ended = os.pidfd_open(pid)
                forks[ended] = fork
                selector.register(ended, selectors.EVENT_READ, fork)
                selector.register(connection, selectors.EVENT_READ, fork)
            elif key.fileobj in forks:
                fork = forks.pop(key.fileobj)
                selector.unregister(key.fileobj)
                os.close(key.fileobj)
                _, status = os.waitpid(fork.pid, 0)
                with suppress(KeyError):
                    selector.unregister(fork.connection)
                with suppress(OSError):
                    messages.send_number(fork.connection, status)
                fork.connection.close()
            else:
                fork = key.data
                number = messages.receive_number(fork.connection)
                with suppress(ProcessLookupError):
                    # Whoever stood for the fork was killed, and so must the fork be.
                    os.kill(fork.pid, signal.SIGKILL if number is None else number)
                if number is None:
                    selector.unregister(fork.connection)


def become(job: messages.Job, fds: list[int], set_by_imports: Mapping[str, str]) -> None:
    """Be as the process that was started would be at its first line, and do its work."""
    os.setsid()
    _take_files(dict(zip(job.fds, fds, strict=True)))
    os.chdir(job.folder)
    os.umask(job.umask)
    os.environ.clear()
    os.environ.update({**set_by_imports, **job.environment})
    sys.executable = job.executable
    sys.path[:] = job.path
    sys.path_importer_cache.clear()
    random.seed()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for name in [name for name in sys.modules if name.partition(".")[0] == "tests"]:
        del sys.modules[name]
    main = types.ModuleType("__main__")
    sys.modules["__main__"] = main
    sys.orig_argv[:] = [job.executable, *job.argv[1:]]
    if job.argv[1] == "-m":
        sys.argv[:] = job.argv[2:]
        sys.path.insert(0, job.folder)
        # What Python itself calls for `-m`.
        importlib.import_module("runpy")._run_module_as_main(job.argv[2])
        return
    if job.argv[1] == "-c":
        sys.argv[:] = ["-c", *job.argv[3:]]
        sys.path.insert(0, "")
        exec(job.argv[2], vars(main))
        return
    sys.argv[:] = job.argv[1:]
    program = Path(job.argv[1])
    sys.path.insert(0, f"{program.resolve().parent}")
    main.__file__ = f"{program}"
    exec(compile(program.read_bytes(), main.__file__, "exec"), main.__dict__)


def _take_files(received: dict[int, int]) -> None:
    """Number the open files as the other process has them, and close the server's own three."""
    # First out of the way of all of them.
    spare = max(received, default=2) + 1
    moved = {number: fcntl.fcntl(fd, fcntl.F_DUPFD, spare) for number, fd in received.items()}
    for fd in {0, 1, 2, *received.values()}:
        os.close(fd)
    for number, fd in moved.items():
        os.dup2(fd, number)
        os.close(fd)
    for fd, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        own = getattr(sys, name)
        stream = None
        if fd in received:
            buffered = os.fdopen(fd, f"{mode}b", closefd=False)
            stream = io.TextIOWrapper(
                buffered,
                own.encoding,
                own.errors,
                line_buffering=fd == 2 or os.isatty(fd),
                write_through=bool(fd and os.environ.get("PYTHONUNBUFFERED")),
            )
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)


def main() -> None:
    own = messages.surroundings()
    before = dict(os.environ)
    for name in sys.argv[2:]:
        importlib.import_module(name)
    set_by_imports = {k: v for k, v in os.environ.items() if k not in before}
    gc.collect()
    gc.freeze()
    job, fds = serve(Path(sys.argv[1]), own)
    become(job, fds, set_by_imports)


if __name__ == "__main__":
    main()
