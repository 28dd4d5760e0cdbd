"""What all families of models share: text encoding, guidance, and batches under way.

A family is a subclass in a file of its own that says what is particular to it: the denoiser's name
in the pipeline, its sites, how a prompt becomes conditions, and how the denoiser is called.
diffusers takes seconds to import and is imported where it is used: the many short-lived workers
that only reduce statistics or select masks do without.

Shapes: H guidance halves, B prompts a batch, N = H * B samples of one denoiser call.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from conceptprune.errors import UserError
from conceptprune.models.offload import Residency, is_text_encoder
from conceptprune.models.prompt import Prompt
from conceptprune.models.settings import Offload
from conceptprune.models.sites import SITES, Sees, Site, find_sites, join_layer, site_linears
from conceptprune.models.trajectory import Trajectory

KEPT_ENCODINGS = 256
"""So many prompts' conditions are kept on the host beside those in use: 1 GiB for FLUX.1's."""

NOT_NEEDED = ("safety_checker", "feature_extractor", "image_encoder")
"""Components of a pipeline that neither collection nor a drawing uses."""

OnCall = Callable[[int, float, int], None]
"""Told of each denoiser call beforehand: its number, its timestep and its guidance halves."""

Conditions = Mapping[str, Tensor]
"""What the denoiser is told of one prompt, by the name its call gives it: each [1, ...]."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Metered:
    """A linear of a site, and the first of its columns that belongs to the site."""

    linear: nn.Linear
    first_column: int
    sees: Sees


@dataclass(frozen=True, slots=True, kw_only=True)
class Guided:
    """A batch of B prompts under way: its trajectory and the conditions of all halves."""

    trajectory: Trajectory
    conditions: Conditions
    """Each [H, B, ...]: unconditional half first (H = 2), or the prompts alone (H = 1)."""
    halves: int
    guidance: float


class DiffusionModel(ABC):
    """The modules of a diffusers pipeline, run call by call."""

    component: str
    """The pipeline attribute that holds the denoiser."""
    sites: ClassVar[Mapping[str, Site]] = SITES
    """By name: where this family has prunable linears."""
    flow_matching: ClassVar[bool] = False
    """Trained for a flow's velocity: the schedulers of noise-predicting models do not fit."""
    resumable: ClassVar[bool] = True
    """A trajectory can be cut into windows of calls."""
    not_needed: ClassVar[tuple[str, ...]] = NOT_NEEDED
    """Components that are not loaded."""
    encodes_by_itself: ClassVar[bool] = False
    """The pipeline encodes prompts while it denoises: its text encoders are never freed."""

    def __init__(self, pipe: Any, *, resolution: int | None = None) -> None:
        """The same modules as `pipe` (nothing is copied).

        `resolution` is the side of the square images in pixels, the model's own by default.
        """
        self.pipe = pipe
        self.scheduler = pipe.scheduler
        self.denoiser: nn.Module = getattr(pipe, self.component).eval()
        self.config: Mapping[str, Any] = getattr(pipe, self.component).config
        self.latent_side = (
            resolution // pipe.vae_scale_factor if resolution else self.default_side(self.config)
        )
        self._encoded: dict[str, Conditions] = {}
        self._residency: Residency | None = None
        for module in pipe.components.values():
            if isinstance(module, nn.Module):
                module.eval()

    @classmethod
    def from_pipeline(cls, pipe: Any) -> Self:
        """The same modules as `pipe` (nothing is copied)."""
        return cls(pipe)

    @classmethod
    def load(
        cls,
        folder: Path | str,
        *,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        scheduler: str | None = None,
        resolution: int | None = None,
        offload: Offload = "none",
    ) -> Self:
        """Load a `from_pretrained` folder; `scheduler` names another diffusers scheduler class.

        What of it is on the device, and when, is up to `offload`; see there.

        Raises:
            UserError: a component is missing or is not in safetensors files, or the scheduler is
                not for this family.
        """
        import diffusers

        folder = Path(folder)
        cls.check_scheduler(scheduler)
        index = diffusers.DiffusionPipeline.load_config(folder, local_files_only=True)
        unused = {name: None for name in cls.not_needed if name in index}
        try:
            pipe = diffusers.DiffusionPipeline.from_pretrained(
                folder,
                torch_dtype=dtype,
                use_safetensors=True,
                local_files_only=True,
                **unused,
            )
        except (OSError, ValueError, ImportError) as error:
            raise UserError(
                f"cannot load a {index['_class_name']} from {folder}: {error}"
            ) from error
        if scheduler is not None:
            new = getattr(diffusers, scheduler).from_pretrained(folder / "scheduler")
            pipe.register_modules(scheduler=new)
        model = cls(pipe, resolution=resolution)
        if cls.encodes_by_itself and offload != "sequential":
            offload = "none"
        model._residency = Residency(
            pipe=pipe,
            component=model.component,
            folder=folder,
            dtype=dtype,
            device=torch.device(device),
            offload=offload,
        )
        model._residency.place()
        return model

    @classmethod
    def check_scheduler(cls, name: str | None) -> None:
        """Raise a `UserError` where the diffusers scheduler `name` does not fit the family."""
        if cls.flow_matching and name is not None:
            raise UserError(
                f"collection.scheduler: {name} is not for a flow-matching model; leave it out to "
                "use the model's own"
            )

    @classmethod
    def denoiser_among(cls, components: Iterable[str]) -> str:
        """Which of a pipeline's components is the denoiser."""
        return cls.component

    @classmethod
    def halves(cls, guidance: float) -> int:
        """Guidance halves of a denoiser call: as in diffusers, one where guidance is 1 or less."""
        return 2 if guidance > 1 else 1

    @classmethod
    def default_side(cls, config: Mapping[str, Any]) -> int:
        """Side of the latents that a denoiser with this `config` was made for."""
        side: int = config["sample_size"]
        return side

    @classmethod
    def latent_channels(cls, config: Mapping[str, Any]) -> int:
        """Channels of the latents [B, C, side, side]."""
        channels: int = config["in_channels"]
        return channels

    def text_encoders(self) -> dict[str, nn.Module]:
        """The pipeline's text encoders, by the name the pipeline gives them; loaded if need be."""
        if self._residency:
            self._residency.bring_encoders()
        return {
            name: module
            for name, module in self.pipe.components.items()
            if is_text_encoder(name) and module is not None
        }

    @contextmanager
    def text_encoders_kept(self) -> Iterator[None]:
        """For changes to their weights: the text encoders are loaded, and not freed meanwhile."""
        if self._residency is None:
            yield
            return
        with self._residency.keeping_encoders():
            yield

    @property
    def device(self) -> torch.device:
        """Where the denoiser computes; its weights may be elsewhere meanwhile."""
        if self._residency:
            return self._residency.device
        if hasattr(self.denoiser, "_hf_hook"):
            # Offloaded by its owner: accelerate's hooks bring it to the device for each call.
            device: torch.device = self.pipe._execution_device
            return device
        return next(self.denoiser.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """The denoiser's floating-point type."""
        return next(self.denoiser.parameters()).dtype

    @abstractmethod
    def encode_prompt(self, text: str) -> Conditions:
        """What the text encoders make of one prompt, each [1, ...]."""

    def encode_unconditional(self) -> Conditions:
        """The conditions of the unconditional half."""
        return self.encode("")

    @abstractmethod
    def predict(
        self, sample: Tensor, timestep: Tensor, conditions: Conditions, guidance: float
    ) -> Tensor:
        """One denoiser call: the prediction [N, ...] for `sample` [N, ...] at a scalar timestep."""

    def prompt_states(self, conditions: Conditions) -> Tensor:
        """What the linears of sites that see the prompt alone take: [N, tokens, dim]."""
        return conditions["encoder_hidden_states"]

    def metered(
        self, names: Iterable[str], sees: Sequence[Sees] = ("latents", "prompt", "text")
    ) -> dict[str, Metered]:
        """The linears of those of the sites named that see one of `sees`, by layer.

        Raises:
            UserError: an unknown site, or one that has no linear here or something else.
        """
        found = {}
        for site in find_sites(self.sites, names, type(self.pipe).__name__):
            if site.sees not in sees:
                continue
            components = self.text_encoders() if site.sees == "text" else self._denoiser_by_name()
            for component, module in components.items():
                for name, linear in site_linears(module, site).items():
                    shape = (linear.out_features, linear.in_features)
                    found[join_layer(component, name, self.component)] = Metered(
                        linear=linear, first_column=site.first_column(name, shape), sees=site.sees
                    )
        return found

    def _denoiser_by_name(self) -> dict[str, nn.Module]:
        return {self.component: self.denoiser}

    def schedule(self, steps: int) -> dict[str, Any]:
        """What the scheduler's `set_timesteps` needs beside the number of steps."""
        return {}

    def encode(self, text: str) -> Conditions:
        """Conditions of one prompt, each [1, ...], on the host; a prompt is encoded once.

        One text at a time, so that batching changes no bit.
        """
        return self.encode_all([text])[0]

    @torch.no_grad()
    def encode_all(self, texts: Iterable[str]) -> list[Conditions]:
        """Conditions of several prompts; those met last are kept for later."""
        texts = list(texts)
        if self._residency and not self._encoded.keys() >= set(texts):
            self._residency.bring_encoders()
        for text in texts:
            # Met again: put at the end, where what was used last is.
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
        """Prompts in batches; their texts are encoded for many batches at once, ahead of them.

        So the text encoders, which are freed before each batch starts, are loaded seldom.
        """
        ahead = max(1, KEPT_ENCODINGS // 2 // size) * size
        for first in range(0, len(prompts), size):
            if first % ahead == 0:
                self.encode_all(prompt.text for prompt in prompts[first : first + ahead])
                if self.halves(guidance) == 2:
                    self.encode_unconditional()
            yield prompts[first : first + size]

    def forget_encodings(self) -> None:
        """Encode prompts anew from now on, because a text encoder's weights have changed."""
        self._encoded.clear()

    def noise(self, generators: list[torch.Generator]) -> Tensor:
        """Unit-variance latents [B, C, side, side], one generator each, as diffusers draws them."""
        from diffusers.utils.torch_utils import randn_tensor

        shape = (self.latent_channels(self.config), self.latent_side, self.latent_side)
        latents: Tensor = randn_tensor(
            (len(generators), *shape), generator=generators, device=self.device, dtype=self.dtype
        )
        return latents

    def begin(self, prompts: Sequence[Prompt], *, steps: int, guidance: float) -> Guided:
        """Start a batch: noise from each prompt's own seed, drawn as diffusers pipelines do."""
        encoded = self.encode_all([prompt.text for prompt in prompts])
        seeds = [prompt.seed for prompt in prompts]
        return self.begin_encoded(encoded, seeds, steps=steps, guidance=guidance)

    def begin_encoded(
        self, encoded: Sequence[Conditions], seeds: Sequence[int], *, steps: int, guidance: float
    ) -> Guided:
        """The same from conditions that need not be of any text, each [1, ...]."""
        generators = [torch.Generator("cpu").manual_seed(seed) for seed in seeds]
        trajectory = Trajectory(
            scheduler=type(self.scheduler).from_config(self.scheduler.config),
            steps=steps,
            latents=self.noise(generators),
            generators=generators,
            schedule=self.schedule(steps),
        )
        halves = self.halves(guidance)
        rows = [list(encoded)]
        if halves == 2:
            rows.insert(0, [self.encode_unconditional()] * len(encoded))
        if self._residency:
            self._residency.begin_denoising()
        conditions = {
            name: torch.stack([torch.cat([one[name] for one in row]) for row in rows])
            for name in encoded[0]
        }
        return Guided(
            trajectory=trajectory,
            conditions={name: tensor.to(self.device) for name, tensor in conditions.items()},
            halves=halves,
            guidance=guidance,
        )

    def check_calls(self, batch: Guided, stop: int) -> None:
        """Raise a `UserError` where the scheduler makes fewer than `stop` calls."""
        trajectory = batch.trajectory
        if stop > trajectory.num_calls:
            raise UserError(
                f"collection.tau: {stop} calls were asked for, but the scheduler makes only "
                f"{trajectory.num_calls} with steps: {trajectory.steps}"
            )

    def run(self, batch: Guided, stop: int, on_call: OnCall, *, at_once: int | None = None) -> None:
        """Make the calls from where the batch is up to `stop`, each after `on_call` of it."""
        trajectory = batch.trajectory
        while trajectory.call < stop:
            on_call(trajectory.call, float(trajectory.timestep), batch.halves)
            self.advance(batch, at_once=at_once)

    def draw(
        self, prompts: Sequence[Prompt], *, steps: int, guidance: float, at_once: int | None = None
    ) -> Tensor:
        """Images [n, height, width, 3] uint8 of the prompts, each from its own seed."""
        return self.finish(self.begin(prompts, steps=steps, guidance=guidance), at_once=at_once)

    def finish(self, batch: Guided, *, at_once: int | None = None) -> Tensor:
        """Images [n, height, width, 3] uint8 of a batch that has just begun."""
        for _ in range(batch.trajectory.num_calls):
            self.advance(batch, at_once=at_once)
        parts = batch.trajectory.latents.split(at_once or len(batch.trajectory.latents))
        return torch.cat([self.decode(part) for part in parts])

    @torch.no_grad()
    def advance(self, batch: Guided, *, at_once: int | None = None) -> None:
        """One denoiser call on all halves of the batch, guidance, and the scheduler's step.

        `at_once` prompts go through the denoiser together (all of them by default): fewer take
        less memory, and may move the last bits.
        """
        trajectory = batch.trajectory
        # [halves, prompts, ...]: a slice of prompts takes its halves along.
        samples = trajectory.model_input().expand(batch.halves, *trajectory.latents.shape)
        num_prompts = samples.shape[1]
        size = at_once or num_prompts
        predictions = [
            self.predict(
                samples[:, first : first + size].flatten(0, 1),
                trajectory.timestep,
                {
                    name: tensor[:, first : first + size].flatten(0, 1)
                    for name, tensor in batch.conditions.items()
                },
                batch.guidance,
            ).unflatten(0, (batch.halves, -1))
            for first in range(0, num_prompts, size)
        ]
        prediction = torch.cat(predictions, dim=1)
        if batch.halves == 2:
            unconditional, conditional = prediction
            prediction = unconditional + batch.guidance * (conditional - unconditional)
        else:
            (prediction,) = prediction
        trajectory.advance(prediction)

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Images [n, height, width, 3] uint8 of final latents [n, C, h, w]."""
        vae = self.pipe.vae
        scaled = latents / vae.config.scaling_factor
        if vae.config.shift_factor is not None:
            scaled = scaled + vae.config.shift_factor
        pictures = vae.decode(scaled.to(vae.dtype), return_dict=False)[0]
        unit = (pictures.float() / 2 + 0.5).clamp(0, 1)
        images: Tensor = (unit * 255).round().to(torch.uint8).permute(0, 2, 3, 1).cpu()
        return images
