"""Threads that begin at the same moment."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor


def in_threads(work: Callable[[int], None], count: int) -> None:
    """Call `work` with each number below `count`, each in its own thread."""
    start = threading.Barrier(count)

    def begin(index: int) -> None:
        start.wait()
        work(index)

    with ThreadPoolExecutor(count) as pool:
        for done in [pool.submit(begin, index) for index in range(count)]:
            done.result()
