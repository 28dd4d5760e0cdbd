"""When a batch runs out of memory: retry with half as many prompts at once, and record it."""

import gc
import logging
from collections.abc import Iterator
from types import TracebackType

import torch

CPU_MESSAGES = ("can't allocate memory", "not enough memory")
"""Messages of torch's CPU allocator, which raises a plain RuntimeError."""

logger = logging.getLogger(__name__)


class BatchMemory:
    """How many prompts of a batch go through the denoiser together, as far as memory allows.

    A worker does not try a size again that did not fit once.
    """

    def __init__(self, batch_size: int) -> None:
        self.at_once = batch_size

    def attempts(self) -> Iterator["Attempt"]:
        """Attempts at one batch, each from the start and with half as many prompts at once.

            for attempt in memory.attempts():
                with attempt as at_once:
                    result = model.compute(batch, at_once=at_once)

        They end with the first one that fits. If a single prompt does not fit, the error (a
        RuntimeError or MemoryError) is raised; any other error is raised at once.
        """
        fits = False
        while not fits:
            attempt = Attempt(self.at_once)
            yield attempt
            fits = attempt.fits
            if not fits:
                # Not inside the attempt: its traceback keeps the batch's activations alive.
                self.at_once = (self.at_once + 1) // 2
                logger.warning("out of memory: going on with %d prompts at once", self.at_once)
                gc.collect()
                if torch.cuda.is_available():
                    torch.cuda.empty_cache()


class Attempt:
    """One attempt with a given number of prompts at once; `fits` is known afterwards."""

    def __init__(self, at_once: int) -> None:
        self.at_once = at_once
        self.fits = True

    def __enter__(self) -> int:
        return self.at_once

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> bool:
        self.fits = error is None
        return error is not None and self.at_once > 1 and is_out_of_memory(error)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an allocation failed, on a device or on the host."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error) for text in CPU_MESSAGES)
