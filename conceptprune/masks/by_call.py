"""One mask per denoiser call: each is active during its call only.

masks = conceptprune.select_by_call(pipe, evidence, concept="Van Gogh")
with masks.applied(pipe):
    pipe("a cat in the style of Van Gogh")

The published code generates this way when masks are not united over the calls. It depends on the
pipeline's own loop: calls are counted by its scheduler, so that they match the statistics.
"""

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from conceptprune.errors import UserError
from conceptprune.masks.mask import PruningMask, check_same_weights, load_mask

_ATTRIBUTE = "_conceptprune_by_call"


@dataclass(frozen=True, slots=True)
class MasksByCall:
    """Masks of one model for its first denoiser calls, in order of the calls."""

    masks: tuple[PruningMask, ...]

    def __post_init__(self) -> None:
        if not self.masks:
            raise UserError("masks by call: no mask is given")
        for mask in self.masks[1:]:
            check_same_weights(self.masks[0], mask)

    def apply(self, pipe: Any, *, force: bool = False) -> None:
        """From now on, apply each mask during its denoiser call in `pipe`, a whole pipeline.

        Raises:
            ModelMismatchError: the masks were made for other weights (unless `force`).
            UserError: masks by call are applied already, or `pipe` has no scheduler.
        """
        if not hasattr(pipe, "scheduler"):
            raise UserError(
                f"masks by call need a whole pipeline with its scheduler, and this is a "
                f"{type(pipe).__name__}"
            )
        if hasattr(pipe, _ATTRIBUTE):
            raise UserError("masks by call are applied to this pipeline already: remove them first")
        if not force:
            self.masks[0].check(pipe)
        setattr(pipe, _ATTRIBUTE, _Turns(pipe, self.masks))

    def remove(self, pipe: Any) -> None:
        """Stop applying masks: `pipe` has all of its weights at every call again.

        Raises:
            UserError: these masks are not applied to it.
        """
        if not self.is_applied(pipe):
            raise UserError("these masks by call are not applied to this pipeline")
        getattr(pipe, _ATTRIBUTE).end()
        delattr(pipe, _ATTRIBUTE)

    def is_applied(self, pipe: Any) -> bool:
        """Whether these masks are applied to `pipe`."""
        turns: _Turns | None = getattr(pipe, _ATTRIBUTE, None)
        if turns is None:
            return False
        return [mask.digest for mask in turns.masks] == [mask.digest for mask in self.masks]

    @contextmanager
    def applied(self, pipe: Any, *, force: bool = False) -> Iterator[None]:
        """Applied inside the context, and removed even after an error; see `apply`."""
        self.apply(pipe, force=force)
        try:
            yield
        finally:
            self.remove(pipe)

    def save(self, folder: Path | str) -> None:
        """Write one mask file per call into a folder, which must not exist yet.

        Raises:
            UserError: it does.
        """
        folder = Path(folder)
        try:
            folder.mkdir(parents=True)
        except OSError as error:
            raise UserError(f"masks by call: cannot make the folder {folder}: {error}") from error
        for call, mask in enumerate(self.masks):
            mask.save(folder / f"call-{call:03}.safetensors")


def load_masks_by_call(folder: Path | str) -> MasksByCall:
    """Read what `MasksByCall.save` wrote.

    Raises:
        UserError: there is no such folder, a call's file is missing, or a file is not a mask.
        ModelMismatchError: the masks belong to different models.
    """
    files = sorted(Path(folder).glob("call-*.safetensors"))
    names = [f"call-{call:03}.safetensors" for call in range(len(files))]
    if not files or [file.name for file in files] != names:
        raise UserError(f"{folder}: no complete set of masks by call (call-000.safetensors, ...)")
    return MasksByCall(tuple(load_mask(file) for file in files))


class _Turns:
    """Applies and removes masks as a pipeline's scheduler goes from call to call."""

    def __init__(self, pipe: Any, masks: tuple[PruningMask, ...]) -> None:
        self.pipe = pipe
        self.masks = masks
        self.scheduler = pipe.scheduler
        self.call = 0
        self.on: PruningMask | None = None
        self._follow("set_timesteps", lambda: self.turn(0))
        self._follow("step", lambda: self.turn(self.call + 1))

    def _follow(self, name: str, then: Callable[[], None]) -> None:
        """Run `then` after a scheduler method; keep its signature, which pipelines inspect."""
        method = getattr(self.scheduler, name)

        @functools.wraps(method)
        def followed(*args: Any, **kwargs: Any) -> Any:
            result = method(*args, **kwargs)
            then()
            return result

        setattr(self.scheduler, name, followed)

    def turn(self, call: int) -> None:
        """Switch to the mask of this call; after the last one, to none."""
        self.take_off()
        self.call = call
        if call < min(len(self.masks), len(self.scheduler.timesteps)):
            self.masks[call].apply(self.pipe, force=True)
            self.on = self.masks[call]

    def take_off(self) -> None:
        """Remove the active mask."""
        if self.on is not None:
            self.on.remove(self.pipe)
            self.on = None

    def end(self) -> None:
        """Remove the active mask and restore the scheduler."""
        self.take_off()
        for name in ("set_timesteps", "step"):
            delattr(self.scheduler, name)
