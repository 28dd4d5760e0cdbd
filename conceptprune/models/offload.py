"""Which parts of a pipeline are on the device, and when.

Offloading does not change any result: freed weights are read again from the same files.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from conceptprune.models.components import load_component
from conceptprune.models.settings import Offload


def is_text_encoder(name: str) -> bool:
    """Whether a pipeline's component of that name is a text encoder."""
    return name.startswith("text_encoder")


@dataclass(slots=True, kw_only=True)
class Residency:
    """Places the modules of a pipeline that was loaded from a folder."""

    pipe: Any
    component: str
    """The denoiser's name in the pipeline."""
    folder: Path
    dtype: torch.dtype
    device: torch.device
    offload: Offload
    _freed: dict[str, type[nn.Module]] = field(default_factory=dict)
    """Classes of the text encoders that are currently freed, by name."""
    _keepers: int = 0

    def place(self) -> None:
        """Put every module where it belongs before the first prompt."""
        for name, module in self.pipe.components.items():
            if isinstance(module, nn.Module) and name != self.component:
                module.to(self.device)
        if self.offload in ("none", "encoders"):
            self._denoiser.to(self.device)
        if self.offload == "sequential":
            # Imported here because only this mode needs it.
            from diffusers.hooks import apply_group_offloading

            apply_group_offloading(
                self._denoiser, onload_device=self.device, offload_type="leaf_level"
            )

    def bring_encoders(self) -> None:
        """Bring all text encoders to the device; freed ones are read again from their files.

        Encoders that the pipeline never had stay missing.
        """
        if self.offload == "model":
            self._denoiser.to("cpu")
        for name, kind in self._freed.items():
            encoder = load_component(kind, self.folder / name, self.dtype)
            setattr(self.pipe, name, encoder.to(self.device).eval())
        self._freed.clear()

    def begin_denoising(self) -> None:
        """Free the text encoders, unless kept, and bring the denoiser to the device."""
        if self.offload != "none" and not self._keepers:
            for name, module in self.pipe.components.items():
                if is_text_encoder(name) and module is not None:
                    self._freed[name] = type(module)
                    setattr(self.pipe, name, None)
        if self.offload == "model":
            self._denoiser.to(self.device)

    @contextmanager
    def keeping_encoders(self) -> Iterator[None]:
        """Keep the text encoders loaded inside the context, to change their weights."""
        self.bring_encoders()
        self._keepers += 1
        try:
            yield
        finally:
            self._keepers -= 1

    @property
    def _denoiser(self) -> nn.Module:
        denoiser: nn.Module = getattr(self.pipe, self.component)
        return denoiser
