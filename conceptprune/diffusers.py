"""Masks by name on a diffusers pipeline, with the verbs that users of adapters know.

load_mask(pipe, "vorla-brint.safetensors", name="vorla")
load_mask(pipe, "van-gogh.safetensors", name="van-gogh")
set_masks(pipe, "vorla")  # exactly this one
disable_masks(pipe)  # every original byte is back
delete_masks(pipe, "van-gogh")  # no longer loaded

What is loaded is written down on the pipeline, what is active is seen by its weights: nothing is
global, and `PruningMask.apply`, `remove` and `applied` may be used beside these. One thread at a
time changes a model; a server's requests generate within `with mask.applied(pipe):`.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from conceptprune.errors import UserError
from conceptprune.masks.mask import PruningMask
from conceptprune.masks.mask import load_mask as read_mask
from conceptprune.masks.switch import exclusively, switch

_ATTRIBUTE = "_conceptprune_masks"


def load_mask(pipe: Any, path: Path | str, *, name: str | None = None) -> str:
    """Read a mask file and activate it beside those that are active; returns its name.

    `name` is the concepts' by default. A mask of that name is taken off and replaced. Nothing is
    changed when an error is raised.

    Raises:
        UserError: the file is no mask, the mask is loaded under another name, or the one of this
            name cannot be taken off.
        ModelMismatchError: the mask was made for other weights.
    """
    mask = read_mask(path)
    name = mask.title if name is None else name
    with exclusively(pipe):
        loaded = loaded_masks(pipe)
        for other, known in loaded.items():
            if other != name and known == mask:
                raise UserError(
                    f"load_mask: {path} would be {name!r}, and this very mask is loaded already, "
                    f"as {other!r}: {known.title}"
                )
        replaced = [old for old in (loaded.get(name),) if old and old != mask and old.is_held(pipe)]
        switch(pipe, off=replaced, on=[] if mask.is_active(pipe) else [mask])
        setattr(pipe, _ATTRIBUTE, {**loaded, name: mask})
    return name


def loaded_masks(pipe: Any) -> dict[str, PruningMask]:
    """The masks that were loaded into `pipe`, active or not, by name."""
    return dict(getattr(pipe, _ATTRIBUTE, {}))


def active_masks(pipe: Any) -> list[str]:
    """Names of the masks that `pipe` generates without, fused ones too.

    A mask whose weights something else has written to is none of them.
    """
    with exclusively(pipe):
        return [name for name, mask in loaded_masks(pipe).items() if mask.is_active(pipe)]


def set_masks(pipe: Any, names: Iterable[str] | str) -> None:
    """Activate exactly these of the loaded masks. Nothing is changed when an error is raised.

    Raises:
        UserError: a name that is not loaded, or a mask that is not among the names and cannot be
            taken off, as it is fused or was written over.
        ModelMismatchError: the pipeline has other weights by now.
    """
    with exclusively(pipe):
        loaded = loaded_masks(pipe)
        wanted = _known(loaded, names)
        active = set(active_masks(pipe))
        unwanted = [name for name in loaded if name not in wanted]
        switch(
            pipe,
            off=[loaded[name] for name in unwanted if name in active or loaded[name].is_held(pipe)],
            on=[loaded[name] for name in loaded if name in wanted - active],
        )


def delete_masks(pipe: Any, names: Iterable[str] | str) -> None:
    """Take masks off, where they are on, and forget them. Nothing is changed at an error.

    Raises:
        UserError: a name that is not loaded, or a mask that cannot be taken off.
    """
    with exclusively(pipe):
        loaded = loaded_masks(pipe)
        gone = _known(loaded, names)
        active = active_masks(pipe)
        on = [name for name in gone if name in active or loaded[name].is_held(pipe)]
        switch(pipe, off=[loaded[name] for name in on])
        left = {name: mask for name, mask in loaded.items() if name not in gone}
        setattr(pipe, _ATTRIBUTE, left)


def _known(loaded: Mapping[str, PruningMask], names: Iterable[str] | str) -> set[str]:
    wanted = {names} if isinstance(names, str) else set(names)
    unknown = sorted(wanted - loaded.keys())
    if unknown:
        raise UserError(
            f"no mask {unknown[0]!r} is loaded; there are: {', '.join(map(repr, loaded)) or 'none'}"
        )
    return wanted


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
    with exclusively(pipe):
        loaded = loaded_masks(pipe)
        held = [loaded[name] for name in active_masks(pipe) if loaded[name].is_held(pipe)]
        if not held:
            raise UserError("no mask is active, so there is nothing to fuse: call set_masks first")
        for mask in held:
            mask.fuse(pipe)


def unfuse_masks(pipe: Any) -> None:
    """Undo `fuse_masks`: the masks are active as before, and can be taken off again.

    The original bytes are kept beside the weights in this process only: a pipeline that was saved
    and loaded again, or got another denoiser, has none.

    Raises:
        UserError: no mask of this pipeline is fused, or its weights are no longer those.
    """
    with exclusively(pipe):
        fused = [mask for mask in loaded_masks(pipe).values() if mask.is_fused(pipe)]
        if not fused:
            raise UserError(
                "no mask is fused into these weights in this process, so there are no original "
                "bytes to go back to: load the base model again"
            )
        for mask in fused:
            mask.fuse(pipe, fused=False)
