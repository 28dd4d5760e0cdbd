"""Masks by name on a diffusers pipeline, with the verbs that users of adapters know.

load_mask(pipe, "vorla-brint.safetensors", name="vorla")
load_mask(pipe, "van-gogh.safetensors", name="van-gogh")
set_masks(pipe, "vorla")  # exactly this one
disable_masks(pipe)  # every original byte is back
delete_masks(pipe, "van-gogh")  # no longer loaded

Loaded masks are recorded on the pipeline, and a mask is active if its weights are zero there. There
is no global state, so `PruningMask.apply`, `remove` and `applied` can be used alongside. One thread
at a time changes a model; a server should generate inside `with mask.applied(pipe):`, and without a
mask inside `with exclusively(pipe):`.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from conceptprune.errors import UserError
from conceptprune.masks.mask import PruningMask
from conceptprune.masks.mask import load_mask as read_mask
from conceptprune.masks.switch import switch
from conceptprune.models.lock import exclusively as exclusively

_ATTRIBUTE = "_conceptprune_masks"


def load_mask(pipe: Any, path: Path | str, *, name: str | None = None) -> str:
    """Read a mask file and activate it in addition to the active ones; returns its name.

    By default, `name` is the names of its concepts. A mask of the same name is removed and
    replaced. If an error is raised, nothing is changed.

    Raises:
        UserError: the file is not a mask, the mask is loaded under another name, or the one it
        replaces cannot be removed. ModelMismatchError: the mask was made for other weights.
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
    """The masks loaded into `pipe`, active or not, by name."""
    return dict(getattr(pipe, _ATTRIBUTE, {}))


def active_masks(pipe: Any) -> list[str]:
    """Names of the masks that are active in `pipe`, including fused ones.

    A mask is not active if something else has written to its weights.
    """
    with exclusively(pipe, reads=True):
        return [name for name, mask in loaded_masks(pipe).items() if mask.is_active(pipe)]


def set_masks(pipe: Any, names: Iterable[str] | str) -> None:
    """Activate exactly these loaded masks. If an error is raised, nothing is changed.

    Raises:
        UserError: a name is not loaded, or a mask that is not named cannot be removed, because it
        is fused or was written over. ModelMismatchError: the pipeline now has other weights.
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
    """Remove masks if they are active, and unload them. If an error is raised, nothing is changed.

    Raises:
        UserError: a name is not loaded, or a mask cannot be removed.
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
    """Deactivate all masks, which stay loaded; the pipeline's original bytes are restored.

    Raises:
        UserError: a mask is fused.
    """
    set_masks(pipe, [])


def fuse_masks(pipe: Any) -> None:
    """Make the active masks part of the model: nothing can remove them until `unfuse_masks`.

    The weights do not change, since they are zero already: `pipe.save_pretrained` writes the erased
    model with or without this.

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
    """Undo `fuse_masks`: the masks stay active, and can be removed again.

    The original bytes are kept in this process only: a pipeline that was saved and reloaded, or
    given another denoiser, has lost them.

    Raises:
        UserError: no mask of this pipeline is fused, or its weights have changed.
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
