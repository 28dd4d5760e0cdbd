"""One mask a denoiser call: each is on while its call is made, and no weight is missing afterwards.

masks = conceptprune.select_by_call(pipe, evidence, concept="Van Gogh")
with masks.applied(pipe):
    pipe("a cat in the style of Van Gogh")

This is how the published code generates where masks are not united over the calls. It is tied to a
pipeline's own loop: calls are counted by its scheduler, so that they are those of the statistics.
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
    """Masks of one model for its first denoiser calls, the first call's first."""

    masks: tuple[PruningMask, ...]

    def __post_init__(self) -> None:
        if not self.masks:
            raise UserError("masks by call: there is none")
        for mask in self.masks[1:]:
            check_same_weights(self.masks[0], mask)

    def apply(self, pipe: Any, *, force: bool = False) -> None:
        """From now on `pipe`, a whole pipeline, makes each of its first calls without some weights.

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
        """`pipe` keeps all of its weights at every call again.

        Raises:
            UserError: these masks are not applied to it.
        """
        if not self.is_applied(pipe):
            raise UserError("these masks by call are not applied to this pipeline")
        getattr(pipe, _ATTRIBUTE).end()
        delattr(pipe, _ATTRIBUTE)

    def is_applied(self, pipe: Any) -> bool:
        """Whether `pipe` generates by these masks."""
        turns: _Turns | None = getattr(pipe, _ATTRIBUTE, None)
        if turns is None:
            return False
        return [mask.digest for mask in turns.masks] == [mask.digest for mask in self.masks]

    @contextmanager
    def applied(self, pipe: Any, *, force: bool = False) -> Iterator[None]:
        """Applied for the duration, also where an image fails; see `apply`."""
        self.apply(pipe, force=force)
        try:
            yield
        finally:
            self.remove(pipe)

    def save(self, folder: Path | str) -> None:
        """Write a mask file for each call into a folder, which must not exist yet.

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
        UserError: there is no such folder, a call's file is missing, or one is no mask.
        ModelMismatchError: the masks are of different models.
    """
    files = sorted(Path(folder).glob("call-*.safetensors"))
    names = [f"call-{call:03}.safetensors" for call in range(len(files))]
    if not files or [file.name for file in files] != names:
        raise UserError(f"{folder}: no complete set of masks by call (call-000.safetensors, ...)")
    return MasksByCall(tuple(load_mask(file) for file in files))


class _Turns:
    """Takes masks on and off as a pipeline's scheduler goes from call to call."""

    def __init__(self, pipe: Any, masks: tuple[PruningMask, ...]) -> None:
        self.pipe = pipe
        self.masks = masks
        self.scheduler = pipe.scheduler
        self.call = 0
        self.on: PruningMask | None = None
        self._follow("set_timesteps", lambda: self.turn(0))
        self._follow("step", lambda: self.turn(self.call + 1))

    def _follow(self, name: str, then: Callable[[], None]) -> None:
        """Do something after a method of the scheduler's; pipelines look at its signature."""
        method = getattr(self.scheduler, name)

        @functools.wraps(method)
        def followed(*args: Any, **kwargs: Any) -> Any:
            result = method(*args, **kwargs)
            then()
            return result

        setattr(self.scheduler, name, followed)

    def turn(self, call: int) -> None:
        """It is this call's turn; after the last one, nobody's."""
        self.take_off()
        self.call = call
        if call < min(len(self.masks), len(self.scheduler.timesteps)):
            self.masks[call].apply(self.pipe, force=True)
            self.on = self.masks[call]

    def take_off(self) -> None:
        """No mask is on."""
        if self.on is not None:
            self.on.remove(self.pipe)
            self.on = None

    def end(self) -> None:
        """No mask is on, and the scheduler is as it was."""
        self.take_off()
        for name in ("set_timesteps", "step"):
            delattr(self.scheduler, name)
