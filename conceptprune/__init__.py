"""conceptprune: erase concepts from text-to-image diffusion models by pruning, without training."""

from conceptprune.errors import ModelMismatchError, UserError
from conceptprune.mask import PruningMask, load_mask, union_masks

__version__ = "0.1.0"

__all__ = ["ModelMismatchError", "PruningMask", "UserError", "load_mask", "union_masks"]
