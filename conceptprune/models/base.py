"""What all model families share: text encoding, guidance, and running batches.

Each family is a subclass in its own file, which states what is specific to it: the denoiser's name
in the pipeline, its sites, how a prompt becomes conditions, and how the denoiser is called.

Shapes: H guidance branches, B prompts per batch, N = H * B samples of one denoiser call.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from conceptprune.errors import UserError
from conceptprune.models.branches import computed_once, unwatched
from conceptprune.models.pipeline_modules import PipelineModules
from conceptprune.models.prompt import Prompt
from conceptprune.models.trajectory import Trajectory
from conceptprune.models.watching import Enough

KEPT_ENCODINGS = 256
"""How many prompts' conditions stay cached on the host, besides those in use: 1 GiB for FLUX.1."""

SHARED_FROM = 6
"""Prompts in the smallest batch that computes only once what its branches or prompts share. With
fewer there is little to save, and so few samples take other kernels on a CPU, which change last
bits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DenoiserCall:
    """What is known about a denoiser call before it is made."""

    number: int
    """Index of the scheduler step, from 0; one step may have several denoiser calls."""
    timestep: float
    conditional: tuple[bool, ...]
    """For each guidance branch of the call (B samples each): is it the conditional one?"""
    continues: bool = False
    """True if this call runs another branch of the last call's prompts, in the same step."""
    in_parts: bool = False
    """True if the prompts go through the denoiser a few at a time."""
    shared: bool = False
    """True if the first branch has one sample, which stands for those of all prompts."""
    unused: bool = False
    """True if nothing uses the denoiser's output: whoever has seen enough may raise `Enough`."""


OnCall = Callable[[DenoiserCall], None]
"""Called before each denoiser call."""

Conditions = Mapping[str, Tensor]
"""The denoiser's inputs for one prompt, each [1, ...], by the name of the argument."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """A running batch of B prompts: its trajectory and the conditions of all branches."""

    trajectory: Trajectory
    conditions: Conditions
    """Each [H, B, ...]: the unconditional branch first (H = 2), or only the conditional one."""
    num_branches: int
    guidance: float
    same_noise: bool = False
    """True if all prompts start from the same latents."""


class DiffusionModel(PipelineModules, ABC):
    """The modules of a diffusers pipeline, run call by call."""

    resumable: ClassVar[bool] = True
    """True if a trajectory can be split into windows of calls."""

    def __init__(self, pipe: Any, *, resolution: int | None = None) -> None:
        super().__init__(pipe, resolution=resolution)
        self._encoded: dict[str, Conditions] = {}

    @classmethod
    def num_branches(cls, guidance: float) -> int:
        """Guidance branches per denoiser call: one if guidance is 1 or less, as in diffusers."""
        return 2 if guidance > 1 else 1

    @abstractmethod
    def encode_prompt(self, text: str) -> Conditions:
        """The text encoders' outputs for one prompt, each [1, ...]."""

    def encode_unconditional(self) -> Conditions:
        """The conditions of the unconditional branch."""
        return self.encode("")

    @abstractmethod
    def predict(
        self, sample: Tensor, timestep: Tensor, conditions: Conditions, guidance: float
    ) -> Tensor:
        """One denoiser call: the prediction [N, ...] for `sample` [N, ...] at a scalar timestep."""

    def before_the_text(self) -> list[nn.Module]:
        """Modules of the denoiser whose inputs are the same in all guidance branches of a prompt,
        and which take and give samples along the first dimension only."""
        return []

    def prompt_states(self, conditions: Conditions) -> Tensor:
        """The input [N, tokens, dim] of linear layers at sites that see only the prompt."""
        return conditions["encoder_hidden_states"]

    def schedule(self, steps: int) -> dict[str, Any]:
        """Arguments of the scheduler's `set_timesteps`, besides the number of steps."""
        return {}

    def encode(self, text: str) -> Conditions:
        """Conditions of one prompt, each [1, ...], on the host; each prompt is encoded only once.

        Texts are encoded one at a time, so that the batch size cannot change a bit.
        """
        return self.encode_all([text])[0]

    @torch.no_grad()
    def encode_all(self, texts: Iterable[str]) -> list[Conditions]:
        """Conditions of several prompts; the most recently used ones stay cached."""
        texts = list(texts)
        if self._residency and not self._encoded.keys() >= set(texts):
            self._residency.bring_encoders()
        for text in texts:
            # Used again: move it to the end, where the most recently used ones are.
            known = self._encoded.pop(text, None)
            self._encoded[text] = known or {
                name: tensor.cpu() for name, tensor in self.encode_prompt(text).items()
            }
        encoded = [self._encoded[text] for text in texts]
        for text in list(self._encoded)[:-KEPT_ENCODINGS]:
            del self._encoded[text]
        return encoded

    def batches(
        self, prompts: Sequence[Prompt], size: int, guidance: float
    ) -> Iterator[Sequence[Prompt]]:
        """Split prompts into batches; texts are encoded ahead of time, for many batches at once.

        The text encoders are freed before each batch, and this way they are rarely loaded again.
        """
        ahead = max(1, KEPT_ENCODINGS // 2 // size) * size
        for first in range(0, len(prompts), size):
            if first % ahead == 0:
                self.encode_all(prompt.text for prompt in prompts[first : first + ahead])
                if self.num_branches(guidance) == 2:
                    self.encode_unconditional()
            yield prompts[first : first + size]

    def forget_encodings(self) -> None:
        """Drop the cached encodings, because a text encoder's weights have changed."""
        self._encoded.clear()

    def noise(self, generators: list[torch.Generator]) -> Tensor:
        """Unit-variance latents [B, C, height, width], one generator per prompt."""
        from diffusers.utils.torch_utils import randn_tensor

        shape = (self.latent_channels(self.config), *self.latent_size)
        latents: Tensor = randn_tensor(
            (len(generators), *shape), generator=generators, device=self.device, dtype=self.dtype
        )
        return latents

    def begin(self, prompts: Sequence[Prompt], *, steps: int, guidance: float) -> Batch:
        """Start a batch: noise comes from each prompt's own seed, as in diffusers pipelines."""
        encoded = self.encode_all([prompt.text for prompt in prompts])
        seeds = [prompt.seed for prompt in prompts]
        return self.begin_encoded(encoded, seeds, steps=steps, guidance=guidance)

    def begin_encoded(
        self, encoded: Sequence[Conditions], seeds: Sequence[int], *, steps: int, guidance: float
    ) -> Batch:
        """The same from given conditions, each [1, ...], which need not come from a text."""
        generators = [torch.Generator("cpu").manual_seed(seed) for seed in seeds]
        trajectory = Trajectory(
            scheduler=type(self.scheduler).from_config(self.scheduler.config),
            steps=steps,
            latents=self.noise(generators),
            generators=generators,
            schedule=self.schedule(steps),
        )
        num_branches = self.num_branches(guidance)
        rows = [list(encoded)]
        if num_branches == 2:
            rows.insert(0, [self.encode_unconditional()] * len(encoded))
        if self._residency:
            self._residency.begin_denoising()
        conditions = {
            name: torch.stack([torch.cat([one[name] for one in row]) for row in rows])
            for name in encoded[0]
        }
        return Batch(
            trajectory=trajectory,
            conditions={name: tensor.to(self.device) for name, tensor in conditions.items()},
            num_branches=num_branches,
            guidance=guidance,
            same_noise=len(set(seeds)) == 1,
        )

    def check_calls(self, batch: Batch, stop: int) -> None:
        """Raise a `UserError` if the scheduler makes fewer than `stop` calls."""
        trajectory = batch.trajectory
        if stop > trajectory.num_calls:
            raise UserError(
                f"collection.tau: {stop} calls were asked for, but the scheduler makes only "
                f"{trajectory.num_calls} with steps: {trajectory.steps}"
            )

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
        """Run the batch from its current call up to `stop`, with `on_call` before each call.

        Pass `tell_branches=False` if `on_call` does not need to know which branches are
        conditional, and `continues=False` if nothing continues from the batch's end.
        """
        trajectory = batch.trajectory
        num_prompts = len(trajectory.latents)
        together = at_once is None or at_once >= num_prompts
        # All at once: to ask a GPU at each call would be to wait for the call before.
        timesteps = trajectory.timesteps.tolist()
        once = unwatched(self.before_the_text()) if batch.num_branches > 1 else []
        while trajectory.call < stop:
            call = DenoiserCall(
                number=trajectory.call,
                timestep=float(timesteps[trajectory.call]),
                conditional=(False, True)[-batch.num_branches :],
                in_parts=at_once is not None,
                shared=(
                    trajectory.call == 0
                    and batch.same_noise
                    and batch.num_branches == 2
                    and together
                    and num_prompts >= SHARED_FROM
                ),
                unused=not continues and together and trajectory.call == stop - 1,
            )
            on_call(call)
            try:
                self.advance(batch, at_once=at_once, shared=call.shared, once=once)
            except Enough:
                break

    def generate(
        self, prompts: Sequence[Prompt], *, steps: int, guidance: float, at_once: int | None = None
    ) -> Tensor:
        """Images [n, height, width, 3] uint8 of the prompts, each from its own seed."""
        return self.finish(self.begin(prompts, steps=steps, guidance=guidance), at_once=at_once)

    def finish(self, batch: Batch, *, at_once: int | None = None) -> Tensor:
        """Run a batch that has just begun to its end: images [n, height, width, 3] uint8."""
        for _ in range(batch.trajectory.num_calls):
            self.advance(batch, at_once=at_once)
        latents, generators = batch.trajectory.latents, batch.trajectory.generators
        size = at_once or len(latents)
        return torch.cat(
            [
                self.decode(latents[first : first + size], generators[first : first + size])
                for first in range(0, len(latents), size)
            ]
        )

    @torch.no_grad()
    def advance(
        self,
        batch: Batch,
        *,
        at_once: int | None = None,
        shared: bool = False,
        once: Sequence[nn.Module] = (),
    ) -> None:
        """Make one denoiser call on all branches of the batch, apply guidance, and step the
        scheduler.

        `at_once` prompts go through the denoiser together (all of them by default). A smaller
        number takes less memory, and may change the last bits. If the latents of all prompts are
        still the same, the unconditional branch can be `shared`: one sample in place of B. In other
        calls of enough prompts, the modules `once` compute one branch, which stands for all.
        """
        trajectory = batch.trajectory
        # [branches, prompts, ...]: a slice of prompts includes all of their branches.
        samples = trajectory.model_input().expand(batch.num_branches, *trajectory.latents.shape)
        num_prompts = samples.shape[1]
        size = num_prompts if shared else at_once or num_prompts
        # The unconditional samples that are left out.
        spared = num_prompts - 1 if shared else 0
        branches: list[Sequence[Tensor]] = []
        for first in range(0, num_prompts, size):
            part = samples[:, first : first + size]
            conditions = {
                name: tensor[:, first : first + size].flatten(0, 1)[spared:]
                for name, tensor in batch.conditions.items()
            }
            alike = not shared and part.shape[1] >= SHARED_FROM
            with computed_once(once if alike else (), batch.num_branches):
                prediction = self.predict(
                    part.flatten(0, 1)[spared:], trajectory.timestep, conditions, batch.guidance
                )
            branches.append(
                prediction.split([1, num_prompts])
                if shared
                else prediction.unflatten(0, (batch.num_branches, -1)).unbind()
            )
        *unconditional, conditional = (torch.cat(parts) for parts in zip(*branches, strict=True))
        if unconditional:
            (other,) = unconditional
            trajectory.advance(other + batch.guidance * (conditional - other))
        else:
            trajectory.advance(conditional)

    @torch.no_grad()
    def decode(
        self, latents: Tensor, generators: Sequence[torch.Generator] | None = None
    ) -> Tensor:
        """Images [n, height, width, 3] uint8 of final latents [n, C, h, w].

        `generators`, one per image, are for the few autoencoders that sample noise themselves.
        """
        vae = self.pipe.vae
        noise = None if generators is None else list(generators)
        own = self.unscaled(latents).to(vae.dtype)
        decoded = vae.decode(own, return_dict=False, generator=noise)[0]
        unit = (decoded.float() / 2 + 0.5).clamp(0, 1)
        images: Tensor = (unit * 255).round().to(torch.uint8).permute(0, 2, 3, 1).cpu()
        return images

    def unscaled(self, latents: Tensor) -> Tensor:
        """Convert the denoiser's latents [n, C, h, w] to the autoencoder's."""
        own: Tensor = latents / self.pipe.vae.config.scaling_factor
        return own

    def scaled(self, latents: Tensor) -> Tensor:
        """Convert the autoencoder's latents to the denoiser's: the inverse of `unscaled`."""
        own: Tensor = latents * self.pipe.vae.config.scaling_factor
        return own
