"""conceptprune: erase concepts from text-to-image diffusion models by pruning, without training."""

from typing import TYPE_CHECKING, Any

from conceptprune.errors import ModelMismatchError, UserError

if TYPE_CHECKING:
    from conceptprune.masks.mask import PruningMask, load_mask, union_masks

__version__ = "0.1.0"

__all__ = ["ModelMismatchError", "PruningMask", "UserError", "load_mask", "union_masks"]


def __getattr__(name: str) -> Any:
    # On first use, because masks import torch: seconds and memory that planning need not pay.
    if name in __all__:
        from conceptprune.masks import mask

        return getattr(mask, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
