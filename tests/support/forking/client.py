"""What a process does whose work a fork has taken over."""

import ctypes
import os
import signal
import socket
import types

from . import messages

HANDED_ON = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
NAME = "forked-"
"""How the name starts of a process that stands for a fork; the fork's number follows."""
_SET_NAME = 15  # PR_SET_NAME of prctl(2)


def ask(address: str, argv: list[str]) -> None:
    """End with the fork that did the work; return if the server does not make one."""
    job = messages.Job.of_this_process(argv)
    with socket.socket(socket.AF_UNIX) as connection:
        early: list[int] = []
        usual = {
            number: signal.signal(number, lambda n, _: early.append(n)) for number in HANDED_ON
        }
        try:
            connection.connect(address)
            job.send(connection)
            pid = messages.receive_number(connection)
        except OSError:
            pid = None
        if pid is None:
            for number, handler in usual.items():
                signal.signal(number, handler)
            for caught in early:
                os.kill(os.getpid(), caught)
            return
        # For those who look for the fork among the children of whoever started this process.
        ctypes.CDLL(None).prctl(_SET_NAME, f"{NAME}{pid}".encode())

        def hand_on(number: int, _frame: types.FrameType | None) -> None:
            messages.send_number(connection, number)

        for number in HANDED_ON:
            signal.signal(number, hand_on)
        for caught in early:
            messages.send_number(connection, caught)
        # Whoever waits for the other end of a pipe waits for the fork, not for this process.
        for fd in job.fds:
            os.close(fd)
        status = messages.receive_number(connection)
    _end(status)


def _end(status: int | None) -> None:
    """End as the fork has, by its wait status."""
    if status is None:  # The server is gone, and its forks with it.
        status = signal.SIGKILL
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        if number != signal.SIGKILL:
            signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
    os._exit(os.waitstatus_to_exitcode(status))
