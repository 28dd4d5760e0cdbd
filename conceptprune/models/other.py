"""Any other text-to-image pipeline of diffusers: run by itself, and watched from the outside.

What no family knows cannot be taken apart into encoding, calls and a scheduler. So the pipeline is
run as it is, its denoiser's calls are counted, and it is stopped when enough of them are seen. That
is all collection needs; a trajectory cannot be cut into windows, though.
"""

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from conceptprune.errors import UserError
from conceptprune.models.base import Conditions, DiffusionModel, Guided, OnCall
from conceptprune.models.prompt import Prompt
from conceptprune.models.trajectory import Trajectory, TrajectoryState

DENOISERS = ("transformer", "unet")
USUAL_SIDE = 128
USUAL_CHANNELS = 4
SAMPLE_NAMES = ("hidden_states", "sample", "x")


class _EnoughError(Exception):
    """Leaves a pipeline's loop before a call that nobody asked for."""


class WholeRun(Trajectory):
    """Prompts for a pipeline to run from the start; how many calls it makes shows then."""

    def __init__(self, prompts: Sequence[Prompt], *, steps: int) -> None:
        self.prompts = tuple(prompts)
        self.steps = steps
        self.generators = [torch.Generator("cpu").manual_seed(prompt.seed) for prompt in prompts]

    def state(self) -> TrajectoryState:
        """Nothing to go on from: the scheduler belongs to the pipeline."""
        raise UserError("collection.window: must be null for a pipeline of no known family")


class OtherPipeline(DiffusionModel):
    """A pipeline of no known family; its sites are regular expressions of the user's."""

    component = ""
    sites = {}  # noqa: RUF012
    resumable = False
    not_needed = ()
    encodes_by_itself = True

    def __init__(self, pipe: Any, *, resolution: int | None = None) -> None:
        """See `DiffusionModel`.

        Raises:
            UserError: the pipeline has no component that looks like a denoiser.
        """
        self.component = self.denoiser_among(pipe.components)
        super().__init__(pipe, resolution=resolution)
        self.resolution = resolution

    @classmethod
    def denoiser_among(cls, components: Any) -> str:
        """See `DiffusionModel`."""
        for name in DENOISERS:
            if name in components:
                return name
        raise UserError(
            f"model: no denoiser among the pipeline's components {', '.join(components)}; looked "
            f"for {' and '.join(DENOISERS)}"
        )

    @classmethod
    def default_side(cls, config: Mapping[str, Any]) -> int:
        """As in most configs; only used to tell sizes beforehand."""
        side = config.get("sample_size")
        return side if isinstance(side, int) else USUAL_SIDE

    @classmethod
    def latent_channels(cls, config: Mapping[str, Any]) -> int:
        """As in most configs; only used to tell sizes beforehand."""
        channels: int = config.get("in_channels", USUAL_CHANNELS)
        return channels

    def encode_prompt(self, text: str) -> Conditions:
        """Nothing: the pipeline encodes its prompts itself."""
        return {}

    def predict(
        self, sample: Tensor, timestep: Tensor, conditions: Conditions, guidance: float
    ) -> Tensor:
        """Never asked for: the pipeline calls its denoiser itself."""
        raise NotImplementedError

    def begin(self, prompts: Sequence[Prompt], *, steps: int, guidance: float) -> Guided:
        """Note what is to be run; nothing is computed yet."""
        return Guided(
            trajectory=WholeRun(prompts, steps=steps),
            conditions={},
            halves=self.halves(guidance),
            guidance=guidance,
        )

    def check_calls(self, batch: Guided, stop: int) -> None:
        """Told by the run itself."""

    @torch.no_grad()
    def run(self, batch: Guided, stop: int, on_call: OnCall, *, at_once: int | None = None) -> None:
        """Run the pipeline until its denoiser has been called `stop` times.

        Raises:
            UserError: the pipeline makes fewer calls.
        """
        run = batch.trajectory
        assert isinstance(run, WholeRun)
        size = at_once or len(run.prompts)
        for first in range(0, len(run.prompts), size):
            prompts = run.prompts[first : first + size]
            calls = 0

            def before(
                _module: nn.Module,
                args: tuple[Any, ...],
                kwargs: dict[str, Any],
                num_prompts: int = len(prompts),
            ) -> None:
                nonlocal calls
                if calls == stop:
                    raise _EnoughError
                sample = args[0] if args else next(kwargs[n] for n in SAMPLE_NAMES if n in kwargs)
                timestep = kwargs["timestep"] if "timestep" in kwargs else args[1]
                first_of = float(torch.as_tensor(timestep).flatten()[0])
                on_call(calls, first_of, len(sample) // num_prompts)
                calls += 1

            handle = self.denoiser.register_forward_pre_hook(before, with_kwargs=True)
            try:
                self._call(prompts, run.steps, batch.guidance, output_type="latent")
            except _EnoughError:
                pass
            finally:
                handle.remove()
            if calls < stop:
                raise UserError(
                    f"collection.tau: {stop} calls were asked for, but the pipeline makes only "
                    f"{calls} with steps: {run.steps}"
                )

    @torch.no_grad()
    def draw(
        self, prompts: Sequence[Prompt], *, steps: int, guidance: float, at_once: int | None = None
    ) -> Tensor:
        """See `DiffusionModel`."""
        size = at_once or len(prompts)
        images = [
            self._call(prompts[first : first + size], steps, guidance, output_type="pt")
            for first in range(0, len(prompts), size)
        ]
        unit = torch.cat(images).float().clamp(0, 1)
        return (unit * 255).round().to(torch.uint8).permute(0, 2, 3, 1).cpu()

    def _call(
        self, prompts: Sequence[Prompt], steps: int, guidance: float, *, output_type: str
    ) -> Any:
        size = {"height": self.resolution, "width": self.resolution} if self.resolution else {}
        wanted = {"guidance_scale": guidance, **size}
        accepted = inspect.signature(self.pipe.__call__).parameters
        return self.pipe(
            [prompt.text for prompt in prompts],
            num_inference_steps=steps,
            generator=[torch.Generator("cpu").manual_seed(prompt.seed) for prompt in prompts],
            output_type=output_type,
            **{name: value for name, value in wanted.items() if name in accepted},
        ).images
