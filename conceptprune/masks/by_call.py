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
from conceptprune.masks.switch import is_held, places, switch
from conceptprune.models.lock import exclusively, writing

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

        They follow its present scheduler: after setting another one, apply them again.

        Raises:
            ModelMismatchError: the masks were made for other weights (unless `force`).
            UserError: masks by call are applied already, or `pipe` has no scheduler.
        """
        with exclusively(pipe):
            self._begin(pipe, force=force)

    def _begin(self, pipe: Any, *, force: bool) -> "_Turns":
        if not hasattr(pipe, "scheduler"):
            raise UserError(
                f"masks by call need a whole pipeline with its scheduler, and this is a "
                f"{type(pipe).__name__}"
            )
        if _turns_of(pipe.scheduler):
            raise UserError("masks by call are applied to this pipeline already: remove them first")
        if not force:
            self.masks[0].check(pipe)
        if before := _turns_of(pipe):
            before.end()
        return _Turns(pipe, self.masks)

    def remove(self, pipe: Any) -> None:
        """Stop applying masks: `pipe` has all of its weights at every call again.

        Raises:
            UserError: these masks are not applied to it.
        """
        with exclusively(pipe):
            turns = _turns_of(getattr(pipe, "scheduler", None)) or _turns_of(pipe)
            if turns is None or not self._are_of(turns):
                raise UserError("these masks by call are not applied to this pipeline")
            turns.end()

    def is_applied(self, pipe: Any) -> bool:
        """Whether the next image from `pipe` is generated with these masks.

        It is not after another scheduler has been set.
        """
        return self._are_of(_turns_of(getattr(pipe, "scheduler", None)))

    def _are_of(self, turns: "_Turns | None") -> bool:
        return turns is not None and turns.masks == self.masks

    @contextmanager
    def applied(self, pipe: Any, *, force: bool = False) -> Iterator[None]:
        """Applied inside the context, and removed even after an error; see `apply`.

        Other threads that apply or remove masks of this model wait, as with `PruningMask.applied`.

        Raises:
            ModelMismatchError, UserError: as `apply`, or another task is inside, or `pipe` was
            given another scheduler inside the context.
        """
        with exclusively(pipe):
            turns = self._begin(pipe, force=force)
            try:
                yield
                if pipe.scheduler is not turns.scheduler:
                    raise UserError(
                        f"masks by call follow the pipeline's {type(turns.scheduler).__name__}, "
                        "and it was given another scheduler meanwhile: images since then lack "
                        "them; set the scheduler first"
                    )
            finally:
                turns.end()

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
        # Pipelines that share the scheduler share the masks; one given another must find them, too.
        for owner in (pipe, self.scheduler):
            setattr(owner, _ATTRIBUTE, self)
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
        # Not `exclusively`: what has the model in use may generate in a thread of its own.
        with writing(self.pipe):
            self.call = call
            wanted = call < min(len(self.masks), len(self.scheduler.timesteps))
            self._switch(self.masks[call] if wanted else None)

    def _switch(self, mask: PruningMask | None) -> None:
        if mask == self.on:
            return
        if self.on is not None:
            if is_held(self.on, places(self.pipe, self.on)):
                switch(self.pipe, off=[self.on])
            self.on = None
        # One that was applied for longer than this call stays when the call is over.
        if mask is not None and not is_held(mask, places(self.pipe, mask)):
            switch(self.pipe, on=[mask], force=True)
            self.on = mask

    def end(self) -> None:
        """Remove the active mask, and leave the pipeline and its scheduler as they were."""
        with writing(self.pipe):
            self._switch(None)
            for name in ("set_timesteps", "step"):
                vars(self.scheduler).pop(name, None)
            for owner in (self.pipe, self.scheduler):
                vars(owner).pop(_ATTRIBUTE, None)


def _turns_of(owner: Any) -> _Turns | None:
    """The turns recorded on a pipeline or a scheduler."""
    turns = vars(owner).get(_ATTRIBUTE) if hasattr(owner, "__dict__") else None
    return turns if isinstance(turns, _Turns) else None
