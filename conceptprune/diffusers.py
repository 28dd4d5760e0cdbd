"""Masks by name on a diffusers pipeline, with the verbs that users of adapters know.


load_mask(pipe, "vorla-brint.safetensors", name="vorla")
load_mask(pipe, "van-gogh.safetensors", name="van-gogh")
set_masks(pipe, ["vorla"])  # exactly this one
disable_masks(pipe)  # every original byte is back

What is loaded is written down on the pipeline, what is active on its weights: nothing is global,
and `PruningMask.apply` and `remove` may be used beside these.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from conceptprune.errors import UserError
from conceptprune.masks.mask import PruningMask
from conceptprune.masks.mask import load_mask as read_mask

_ATTRIBUTE = "_conceptprune_masks"


def load_mask(pipe: Any, path: Path | str, *, name: str | None = None) -> str:
    """Read a mask file and activate it beside those that are active; returns its name.

    `name` is the concepts' by default.

    Raises:
        UserError: the file is no mask, or the name or the mask is loaded already.
        ModelMismatchError: the mask was made for other weights.
    """
    mask = read_mask(path)
    name = ", ".join(mask.concepts) if name is None else name
    loaded = loaded_masks(pipe)
    for other, known in loaded.items():
        if other == name or known.digest == mask.digest:
            raise UserError(
                f"load_mask: {path} would be {name!r}, and "
                f"{'this name' if other == name else 'this very mask'} is loaded already, as "
                f"{other!r}: {', '.join(known.concepts)}"
            )
    if not mask.is_applied(pipe):
        mask.apply(pipe)
    setattr(pipe, _ATTRIBUTE, {**loaded, name: mask})
    return name


def loaded_masks(pipe: Any) -> dict[str, PruningMask]:
    """The masks that were loaded into `pipe`, active or not, by name."""
    return dict(getattr(pipe, _ATTRIBUTE, {}))


def active_masks(pipe: Any) -> list[str]:
    """Names of the masks that `pipe` draws without, fused ones too."""
    return [name for name, mask in loaded_masks(pipe).items() if mask.is_applied(pipe)]


def set_masks(pipe: Any, names: Iterable[str]) -> None:
    """Activate exactly these of the loaded masks. Nothing is changed when an error is raised.

    Raises:
        UserError: a name that is not loaded, or a fused mask that is not among the names.
        ModelMismatchError: the pipeline has other weights by now.
    """
    loaded = loaded_masks(pipe)
    wanted = set(names)
    unknown = sorted(wanted - loaded.keys())
    if unknown:
        raise UserError(
            f"no mask {unknown[0]!r} is loaded; there are: {', '.join(map(repr, loaded)) or 'none'}"
        )
    active = {name for name, mask in loaded.items() if mask.is_applied(pipe)}
    stuck = [name for name in loaded if name in active - wanted and loaded[name].is_fused(pipe)]
    if stuck:
        raise UserError(
            f"the mask {stuck[0]!r} is fused and cannot be taken off; call unfuse_masks(pipe) first"
        )
    for name in wanted - active:
        loaded[name].check(pipe)
    for name in sorted(active - wanted):
        loaded[name].remove(pipe)
    for name in sorted(wanted - active):
        loaded[name].apply(pipe, force=True)


def disable_masks(pipe: Any) -> None:
    """Take off all loaded masks: the pipeline's bytes are the original ones. They stay loaded.

    Raises:
        UserError: a mask is fused.
    """
    set_masks(pipe, [])


def fuse_masks(pipe: Any) -> None:
    """Make the active masks part of the model: until `unfuse_masks`, nothing takes them off.

    The weights do not change, as they are zero already; what `pipe.save_pretrained` writes has the
    concepts erased, with or without this.

    Raises:
        UserError: no mask is active.
    """
    active = active_masks(pipe)
    if not active:
        raise UserError("no mask is active, so there is nothing to fuse: call set_masks first")
    for name in active:
        loaded_masks(pipe)[name].fuse(pipe)


def unfuse_masks(pipe: Any) -> None:
    """Undo `fuse_masks`: the masks are active as before, and can be taken off again.

    The original bytes are kept beside the weights in this process only: a pipeline that was saved
    and loaded again, or got another denoiser, has none.

    Raises:
        UserError: no mask of this pipeline is fused, or its weights are no longer those.
    """
    fused = [mask for mask in loaded_masks(pipe).values() if mask.is_fused(pipe)]
    if not fused:
        raise UserError(
            "no mask is fused into these weights in this process, so there are no original bytes "
            "to go back to: load the base model again"
        )
    for mask in fused:
        mask.fuse(pipe, fused=False)
