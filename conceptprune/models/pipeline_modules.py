"""The modules of a diffusers pipeline: loaded from its folder, checked, and found by site.

diffusers takes seconds to import, so it is imported only where it is used: the many short-lived
workers that only reduce statistics or select masks never load it.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from torch import nn

from conceptprune import progress
from conceptprune.errors import UserError
from conceptprune.models.components import (
    ABSENT,
    INDEX,
    load_component,
    module_classes,
    read_index,
    read_json,
)
from conceptprune.models.offload import Residency, is_text_encoder
from conceptprune.models.settings import Offload
from conceptprune.models.sites import SITES, Sees, Site, find_sites, join_layer, site_linears

NOT_NEEDED = ("safety_checker", "feature_extractor", "image_encoder")
"""Pipeline components that neither collection nor image generation uses."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SiteLinear:
    """A linear layer of a site, and the first of its columns that belongs to the site."""

    linear: nn.Linear
    first_column: int
    sees: Sees


def _note_progress(*_: object) -> None:
    """A forward hook of the denoiser."""
    progress.made()


class PipelineModules:
    """The modules of a diffusers pipeline, and where on a device they are."""

    component: str
    """Name of the pipeline attribute that holds the denoiser."""
    sites: ClassVar[Mapping[str, Site]] = SITES
    """Sites by name: where this family has prunable linear layers."""
    flow_matching: ClassVar[bool] = False
    """True if the model predicts a flow's velocity; noise-prediction schedulers do not fit."""
    not_needed: ClassVar[tuple[str, ...]] = NOT_NEEDED
    """Components that are not loaded."""
    needed_encoders: ClassVar[tuple[str, ...]] = ("text_encoder",)
    """Text encoders without which the pipeline cannot encode a prompt."""
    encodes_by_itself: ClassVar[bool] = False
    """True if the pipeline encodes prompts while denoising: text encoders are never freed."""

    def __init__(self, pipe: Any, *, resolution: int | None = None) -> None:
        """Use the modules of `pipe`; nothing is copied.

        `resolution` is the side of the square images in pixels; by default, the model's own.
        """
        self.pipe = pipe
        self.scheduler = pipe.scheduler
        self.denoiser: nn.Module = getattr(pipe, self.component)
        self.config: Mapping[str, Any] = getattr(pipe, self.component).config
        side = resolution and resolution // pipe.vae_scale_factor
        self.latent_size = (side, side) if side else self.default_size(self.config)
        self._residency: Residency | None = None
        for module in pipe.components.values():
            if isinstance(module, nn.Module) and any(part.training for part in module.modules()):
                module.eval()

    @classmethod
    def from_pipeline(cls, pipe: Any) -> Self:
        """Use the modules of `pipe`; nothing is copied."""
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

        `offload` decides which parts are on the device, and when (see `Offload`).

        Raises:
            UserError: a component is missing or is not in safetensors files, or the scheduler is
                not for this family.
        """
        import diffusers

        folder = Path(folder)
        cls.check_scheduler(scheduler)
        index = read_index(folder)
        cls.check_configs(folder, index)
        modules: dict[str, nn.Module | None] = {
            name: load_component(kind, folder / name, dtype)
            for name, kind in module_classes(folder, index, cls.not_needed).items()
        }
        # Pass None for them: a pipeline accepts that, but not a missing argument.
        modules |= {name: None for name in cls.not_needed if name in index}
        modules |= {name: None for name, entry in index.items() if entry == ABSENT}
        try:
            pipe = diffusers.DiffusionPipeline.from_pretrained(
                folder,
                torch_dtype=dtype,
                local_files_only=True,
                trust_remote_code=False,
                **modules,
            )
            if scheduler is not None:
                new = getattr(diffusers, scheduler).from_pretrained(folder / "scheduler")
                pipe.register_modules(scheduler=new)
        except (OSError, ValueError, ImportError, AttributeError) as error:
            reason = " ".join(str(error).split())
            raise UserError(
                f"model: cannot load a {index['_class_name']} from {folder}: {reason}"
            ) from error
        model = cls(pipe, resolution=resolution)
        # Not in `from_pipeline`: that would leave a hook on the caller's own modules.
        model.denoiser.register_forward_hook(_note_progress)
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
    def check_configs(cls, folder: Path, index: Mapping[str, Any]) -> None:
        """Refuse a model whose configs show that this family's pipeline cannot generate with it.

        Raises:
            UserError: names the file, the field, and what to use instead.
        """
        present = [name for name, entry in index.items() if entry not in (ABSENT, None)]
        denoiser = cls.denoiser_among(present)
        for name in (denoiser, "vae", *cls.needed_encoders):
            if name not in present:
                raise UserError(
                    f"model: {folder / INDEX}: {name} is missing, without which a "
                    f"{index['_class_name']} cannot generate"
                )
        config = read_json(folder / denoiser / "config.json")
        vae = folder / "vae" / "config.json"
        latents = read_json(vae).get("latent_channels")
        if "in_channels" in config and isinstance(latents, int):
            taken = cls.latent_channels(config)
            if taken != latents:
                raise UserError(
                    f"model: {folder / denoiser / 'config.json'}: in_channels is "
                    f"{config['in_channels']}, so that the denoiser takes {taken} channels, and "
                    f"the latents of {vae} have {latents}: an inpainting, editing or "
                    "conditioned model; erase from the text-to-image model that it was made of"
                )
        cls.check_denoiser(config, folder / denoiser / "config.json")

    @classmethod
    def check_denoiser(cls, config: Mapping[str, Any], path: Path) -> None:
        """Refuse denoiser configs (read from `path`) that this family in particular does not
        support.

        Raises:
            UserError: names the file, the field, and what to use instead.
        """

    @classmethod
    def check_scheduler(cls, name: str | None) -> None:
        """Raise a `UserError` if the diffusers scheduler `name` does not fit this family."""
        if cls.flow_matching and name is not None:
            raise UserError(
                f"collection.scheduler: {name} is not for a flow-matching model; leave it out to "
                "use the model's own"
            )

    @classmethod
    def denoiser_among(cls, components: Iterable[str]) -> str:
        """The name of the pipeline's component that is the denoiser."""
        return cls.component

    @classmethod
    def default_size(cls, config: Mapping[str, Any]) -> tuple[int, int]:
        """(height, width) of the latents that a denoiser with this `config` was trained on.

        Raises:
            UserError: the config does not say.
        """
        match config.get("sample_size"):
            case int(side):
                return side, side
            case [int(height), int(width)]:
                return height, width
        raise UserError(
            f"model: sample_size of the denoiser's config.json is {config.get('sample_size')}, "
            "which says no height and width: set collection.resolution"
        )

    @classmethod
    def latent_channels(cls, config: Mapping[str, Any]) -> int:
        """Channels of the latents [B, C, height, width]."""
        channels: int = config["in_channels"]
        return channels

    def text_encoders(self) -> dict[str, nn.Module]:
        """The pipeline's text encoders by their names in the pipeline; loaded if necessary."""
        if self._residency:
            self._residency.bring_encoders()
        return {
            name: module
            for name, module in self.pipe.components.items()
            if is_text_encoder(name) and module is not None
        }

    @contextmanager
    def text_encoders_kept(self) -> Iterator[None]:
        """Keep the text encoders loaded inside the context, to change their weights."""
        if self._residency is None:
            yield
            return
        with self._residency.keeping_encoders():
            yield

    @property
    def device(self) -> torch.device:
        """The device on which the denoiser computes; its weights may be offloaded."""
        if self._residency:
            return self._residency.device
        if hasattr(self.denoiser, "_hf_hook"):
            # The owner has enabled offloading: accelerate's hooks move it to the device for each
            # call.
            device: torch.device = self.pipe._execution_device
            return device
        return next(self.denoiser.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """The denoiser's floating-point type."""
        return next(self.denoiser.parameters()).dtype

    def site_linears(
        self, names: Iterable[str], sees: Sequence[Sees] = ("latents", "prompt", "text")
    ) -> dict[str, SiteLinear]:
        """The linear layers, by layer name, of the given sites that see one of `sees`.

        Raises:
            UserError: a site is unknown, matches no module, or matches a module that is not linear.
        """
        found = {}
        for site in find_sites(self.sites, names, type(self.pipe).__name__):
            if site.sees not in sees:
                continue
            components = self.text_encoders() if site.sees == "text" else self._denoiser_by_name()
            for component, module in components.items():
                for name, linear in site_linears(module, site).items():
                    shape = (linear.out_features, linear.in_features)
                    found[join_layer(component, name, self.component)] = SiteLinear(
                        linear=linear, first_column=site.first_column(name, shape), sees=site.sees
                    )
        return found

    def _denoiser_by_name(self) -> dict[str, nn.Module]:
        return {self.component: self.denoiser}
