"""conceptprune: erase concepts from text-to-image diffusion models by pruning, without training."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from conceptprune.errors import ModelMismatchError, UserError

if TYPE_CHECKING:
    from conceptprune.collection.collect import collect
    from conceptprune.collection.statistics import Statistics
    from conceptprune.manifest import Collection, Concept
    from conceptprune.masks.by_call import MasksByCall, load_masks_by_call
    from conceptprune.masks.mask import PruningMask, load_mask, union_masks
    from conceptprune.masks.selectors import Evidence, named_selector
    from conceptprune.method import find_mask, select, select_by_call
    from conceptprune.models.prompt import Prompt

__version__ = "0.1.0"

__all__ = [
    "Collection",
    "Concept",
    "Evidence",
    "MasksByCall",
    "ModelMismatchError",
    "Prompt",
    "PruningMask",
    "Statistics",
    "UserError",
    "collect",
    "find_mask",
    "load_mask",
    "load_masks_by_call",
    "named_selector",
    "select",
    "select_by_call",
    "union_masks",
]

_HOMES = {
    "Collection": "manifest",
    "Concept": "manifest",
    "Evidence": "masks.selectors",
    "MasksByCall": "masks.by_call",
    "Prompt": "models.prompt",
    "PruningMask": "masks.mask",
    "Statistics": "collection.statistics",
    "collect": "collection.collect",
    "find_mask": "method",
    "load_mask": "masks.mask",
    "load_masks_by_call": "masks.by_call",
    "named_selector": "masks.selectors",
    "select": "method",
    "select_by_call": "method",
    "union_masks": "masks.mask",
}
"""Names imported on first use: their modules import torch, which planning does not need."""


_MODULES = ("diffusers",)
"""Modules that are found in the same way, as they are named in full."""


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return import_module(f"conceptprune.{name}")
    if name in _HOMES:
        return getattr(import_module(f"conceptprune.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_MODULES})
