"""Any other diffusers text-to-image pipeline: run as a whole, and watched from the outside.

A pipeline of no known family cannot be split into encoding, denoiser calls and scheduler steps. So
it is run as it is, its steps are counted, and it is stopped after enough of them. That is all that
collection needs, but a trajectory cannot be split into windows.
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from conceptprune.errors import UserError
from conceptprune.models.base import Batch, Conditions, DenoiserCall, DiffusionModel, OnCall
from conceptprune.models.components import ABSENT, INDEX
from conceptprune.models.prompt import Prompt
from conceptprune.models.trajectory import Trajectory, TrajectoryState, seeded_steps
from conceptprune.models.watching import Enough, GuidanceBranches, SeenCall, watched

DENOISERS = ("transformer", "unet")
USUAL_SIDE = 128
USUAL_CHANNELS = 4
NO_PROMPT = " "
"""For pipelines whose second branch needs a negative prompt; their examples use the same."""
NEEDS_IMAGES = (
    "ControlNet",
    "Edit",
    "Img2Img",
    "Image2Image",
    "ImageVariation",
    "Inpaint",
    "Pix2Pix",
    "Upscale",
    "Depth2Img",
    "Fill",
)
"""Parts of the names of pipelines that need more than a text."""
PROBES = ("a red circle", "two dogs on a beach")
"""Two different prompts, to find out which denoiser inputs depend on the prompt."""


class WholeRun(Trajectory):
    """Prompts for a pipeline to run as a whole; the number of calls shows afterwards."""

    def __init__(self, prompts: Sequence[Prompt], *, steps: int) -> None:
        self.prompts = tuple(prompts)
        self.steps = steps
        self.generators = [torch.Generator("cpu").manual_seed(prompt.seed) for prompt in prompts]

    def state(self) -> TrajectoryState:
        """Not available: the scheduler belongs to the pipeline."""
        raise UserError("collection.window: must be null for a pipeline of no known family")


class OtherPipeline(DiffusionModel):
    """A pipeline of no known family; the user gives its sites as regular expressions."""

    component = ""
    sites = {}  # noqa: RUF012
    resumable = False
    # The safety checker would black out images; the known families leave it out, too.
    not_needed = ("safety_checker",)
    needed_encoders = ()
    encodes_by_itself = True

    def __init__(self, pipe: Any, *, resolution: int | None = None) -> None:
        """See `DiffusionModel`.

        Raises:
            UserError: the pipeline has no component that looks like a denoiser.
        """
        self.component = self.denoiser_among(pipe.components)
        super().__init__(pipe, resolution=resolution)
        self.resolution = resolution
        self._branches_of: dict[float, GuidanceBranches] = {}

    @classmethod
    def check_configs(cls, folder: Path, index: Mapping[str, Any]) -> None:
        """See `DiffusionModel`: the pipeline must generate from a text alone."""
        name = index["_class_name"]
        if any(part in name for part in NEEDS_IMAGES):
            raise UserError(
                f"model: {folder / INDEX}: _class_name is {name}, a pipeline that generates from "
                "more than a text (an image to edit, inpaint or follow); erase from the "
                "text-to-image model"
            )
        present = [part for part, entry in index.items() if entry != ABSENT]
        # Transformers take latents in patches, which differ between pipelines.
        if cls.denoiser_among(present) == "unet" and (folder / "vae" / "config.json").is_file():
            super().check_configs(folder, index)

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
    def default_size(cls, config: Mapping[str, Any]) -> tuple[int, int]:
        """As in most configs; only used to estimate sizes."""
        side = config.get("sample_size")
        return (side, side) if isinstance(side, int) else (USUAL_SIDE, USUAL_SIDE)

    @classmethod
    def latent_channels(cls, config: Mapping[str, Any]) -> int:
        """As in most configs; only used to estimate sizes."""
        channels: int = config.get("in_channels", USUAL_CHANNELS)
        return channels

    def encode_prompt(self, text: str) -> Conditions:
        """Nothing: the pipeline encodes its prompts itself."""
        return {}

    def predict(
        self, sample: Tensor, timestep: Tensor, conditions: Conditions, guidance: float
    ) -> Tensor:
        """Refused, as there is no single call to make: the pipeline calls its denoiser itself."""
        raise UserError(
            "model: a pipeline of no known family is only run as a whole, and cannot be stepped"
        )

    def begin(self, prompts: Sequence[Prompt], *, steps: int, guidance: float) -> Batch:
        """Record what to run; nothing is computed yet."""
        return Batch(
            trajectory=WholeRun(prompts, steps=steps),
            conditions={},
            num_branches=self.num_branches(guidance),
            guidance=guidance,
        )

    def check_calls(self, batch: Batch, stop: int) -> None:
        """Not checked here: `run` finds out."""

    @torch.no_grad()
    def run(
        self,
        batch: Batch,
        stop: int,
        on_call: OnCall,
        *,
        at_once: int | None = None,
        tell_branches: bool = True,
        continues: bool = True,
    ) -> None:
        """Run the pipeline until it has made `stop` steps, each of one denoiser call or several.

        Raises:
            UserError: the pipeline makes fewer steps, or it is unclear which of its guidance
            branches is the conditional one.
        """
        run = batch.trajectory
        assert isinstance(run, WholeRun)
        branches = self._guidance_branches(run.steps, batch.guidance) if tell_branches else None
        size = at_once or len(run.prompts)
        for first in range(0, len(run.prompts), size):
            prompts = run.prompts[first : first + size]

            def tell(call: SeenCall, num_prompts: int = len(prompts)) -> None:
                count = len(call.samples) // num_prompts
                on_call(
                    DenoiserCall(
                        number=call.step,
                        timestep=call.timestep,
                        conditional=branches.of(call, num_prompts) if branches else (True,) * count,
                        continues=call.in_step > 0,
                    )
                )

            made = self._run_steps(prompts, run.steps, batch.guidance, stop, tell)
            if made < stop:
                raise UserError(
                    f"collection.tau: {stop} calls were asked for, but the pipeline makes only "
                    f"{made} with steps: {run.steps}"
                )

    def _guidance_branches(self, steps: int, guidance: float) -> GuidanceBranches:
        """Learn to tell branches of a call apart, from two steps; once per guidance scale."""
        if guidance not in self._branches_of:
            seen: list[list[SeenCall]] = []
            for text in PROBES:
                seen.append([])
                self._run_steps([Prompt(text=text, seed=0)], steps, guidance, 1, seen[-1].append)
            self._branches_of[guidance] = GuidanceBranches(*seen)
        return self._branches_of[guidance]

    def _run_steps(
        self,
        prompts: Sequence[Prompt],
        steps: int,
        guidance: float,
        stop: int,
        on_call: Callable[[SeenCall], None],
    ) -> int:
        """Run the pipeline for its first `stop` steps; returns how many it made."""
        with watched(self.denoiser, self.pipe.scheduler, stop, on_call) as made:
            with suppress(Enough):
                self._call(prompts, steps, guidance, output_type="latent")
            return made.seen

    @torch.no_grad()
    def generate(
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
        accepted = inspect.signature(self.pipe.__call__).parameters
        wanted: dict[str, Any] = {"guidance_scale": guidance}
        # The second branch is on by default in such pipelines, but needs a text.
        true_scale = accepted.get("true_cfg_scale")
        if true_scale is not None and (true_scale.default or 0) > 1:
            wanted = {
                "true_cfg_scale": guidance,
                "negative_prompt": [NO_PROMPT] * len(prompts),
            }
        if self.resolution:
            wanted |= {"height": self.resolution, "width": self.resolution}
        generators = [torch.Generator("cpu").manual_seed(prompt.seed) for prompt in prompts]
        with seeded_steps(self.pipe.scheduler, generators):
            return self.pipe(
                [prompt.text for prompt in prompts],
                num_inference_steps=steps,
                generator=generators,
                output_type=output_type,
                **{name: value for name, value in wanted.items() if name in accepted},
            ).images
