"""The model of a job and how workers load it: what goes to every worker process."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from conceptprune.manifest.model import ModelRef
from conceptprune.models.settings import Offload


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSettings:
    """The model of a job and how workers load it."""

    source: ModelRef
    listing: str | None = None
    """Digest of what there was at the source's URI when the job began, for workers that must find
    just that and nothing newer; None does not look."""
    identity: str
    """Digest of the model's files (`models.families.identity`)."""
    pipeline: str
    """The diffusers pipeline class, which decides the family."""
    dtype: Literal["float16", "bfloat16", "float32"]
    device: Literal["auto", "cpu", "cuda"]
    offload: Offload = "none"
    """What leaves the device when it is not at work; changes no result."""
    scheduler: str | None = None
    resolution: int | None = None
    """Side of the images in pixels; None is the model's own."""
    language_model: str | None = None
    """Digest of the language model that writes fillers; None where none does. It decides the
    prompts, and is no part of what the denoiser computes with them."""

    def folder(self) -> Path:
        """The model's folder on this machine, fetched or converted if it is not there yet.

        Raises:
            UserError, StoreError: see `Model.local_folder`; UserError also if what is at the
                source's URI has changed since the job began.
        """
        return self.source.local_folder(listing=self.listing)

    @property
    def key_parts(self) -> dict[str, Any]:
        """What of it decides results; device, offloading and folder do not."""
        size = {} if self.resolution is None else {"resolution": self.resolution}
        return {"model": self.identity, "dtype": self.dtype, "scheduler": self.scheduler, **size}
