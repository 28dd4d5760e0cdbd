"""Out of memory on a batch: half as many of its prompts at a time, and on record."""

import gc
import logging
from collections.abc import Callable
from typing import TypeVar

import torch

T = TypeVar("T")

CPU_MESSAGES = ("can't allocate memory", "not enough memory")
"""How torch's CPU allocator says it, in a RuntimeError of no class of its own."""

logger = logging.getLogger(__name__)


class BatchMemory:
    """How many prompts of a batch go through the denoiser together, as memory allows.

    What did not fit once is not tried again by the same worker.
    """

    def __init__(self, batch_size: int) -> None:
        self.at_once = batch_size

    def run(self, work: Callable[[int], T]) -> T:
        """`work(at_once)`, from its start again with half as many where memory runs out.

        Raises:
            RuntimeError, MemoryError: memory does not suffice for a single prompt.
        """
        while True:
            try:
                return work(self.at_once)
            except (RuntimeError, MemoryError) as error:
                if self.at_once == 1 or not is_out_of_memory(error):
                    raise
            # After the except block, whose traceback would keep the batch's activations alive.
            self.at_once = (self.at_once + 1) // 2
            logger.warning("out of memory: going on with %d prompts at once", self.at_once)
            gc.collect()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an allocation failed, on a device or on the host."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error) for text in CPU_MESSAGES)
