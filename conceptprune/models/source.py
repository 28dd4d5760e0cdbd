"""Where a model comes from: shipped, a folder, a file, an object store, or a hub revision."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from conceptprune.errors import StoreError, UserError
from conceptprune.models.settings import Offload
from conceptprune.studio import model_path

PIPELINE_FILES = ("model_index.json", "*/*.json", "*/*.txt", "*/*.safetensors", "*/*.model")
LANGUAGE_MODEL_FILES = ("*.json", "*.txt", "*.jinja", "*.safetensors", "*.model")
HUB_NOT = ("*.fp16.*", "*.fp16-*", "*.non_ema.*")
"""What is fetched of a hub model, and what not: no pickled checkpoint, no variants, no code."""
HUB_REFUSES = (401, 403, 404)
"""Answers of the hub that trying again does not change."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSource:
    """A model by name; `folder()` gives its files on the machine that asks."""

    label: str
    """What masks and cards call it: "studio", a folder's name, or "org/name"."""
    builtin: bool = False
    local: str | None = None
    config: str | None = None
    """Where `local` is a single file: the folder of its configs."""
    uri: str | None = None
    listing: str | None = None
    """Digest of what there was at the URI when the job began; None does not look."""
    revision: str | None = None
    files: tuple[str, ...] = PIPELINE_FILES
    """Patterns of the files it consists of."""

    def pinned(self) -> "ModelSource":
        """The same, for workers that must find what is there now and nothing newer.

        Raises:
            UserError: what is at the URI cannot be listed.
        """
        if self.uri is None:
            return self
        from conceptprune.models.remote import listing_digest

        return replace(self, listing=listing_digest(self.uri, self.files))

    def folder(self) -> Path:
        """The model's folder on this machine.

        A remote or hub model is fetched, and a single file converted, once per machine.

        Raises:
            UserError: there is no such folder, file or model, it is not open to this machine, or
                the file is not of the model that its configs say.
            StoreError: the place or the hub cannot be reached just now.
        """
        if self.builtin:
            return model_path()
        if self.local is not None and self.config is not None:
            # Here, because it imports torch.
            from conceptprune.models.from_single_file import converted_folder

            return converted_folder(Path(self.local), Path(self.config))
        if self.local is not None:
            folder = Path(self.local)
            if not folder.is_dir():
                raise UserError(f"model: {folder} is not a folder on this machine")
            return folder
        if self.uri is not None:
            from conceptprune.models.remote import fetched

            return fetched(self.uri, self.files, self.listing)
        # Imported here: only a hub model needs it, and it is slow to import.
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError

        def fetched_from_hub(files: Sequence[str], but: Sequence[str]) -> Path:
            return Path(
                snapshot_download(
                    self.label,
                    revision=self.revision,
                    allow_patterns=list(files),
                    ignore_patterns=list(but),
                )
            )

        try:
            folder = fetched_from_hub(self.files, HUB_NOT)
            if variants := _variants_of(without_weights(folder)):
                fetched_from_hub(variants, ())
            return folder
        # The hub's own errors, and those of the library behind it.
        except Exception as error:
            # Where it has no copy to go by, the library wraps the hub's answer.
            answer = error if isinstance(error, HfHubHTTPError) else error.__cause__
            refused = (
                isinstance(answer, HfHubHTTPError) and answer.response.status_code in HUB_REFUSES
            )
            kind = UserError if refused else StoreError
            raise kind(
                f"model: cannot fetch {self.label} at {self.revision} from the hub: {error}"
            ) from error


def without_weights(folder: Path) -> list[str]:
    """The components of a pipeline's folder that have a config and no safetensors file."""
    return sorted(
        path.parent.name
        for path in folder.glob("*/config.json")
        if not any(path.parent.glob("*.safetensors"))
    )


def _variants_of(components: Sequence[str]) -> list[str]:
    """Patterns of the files that those components may have as a variant only."""
    return [
        f"{name}/{file}"
        for name in components
        for file in ("*.safetensors", "*.safetensors.index.*.json")
    ]


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSettings:
    """The model of a job and how workers load it."""

    source: ModelSource
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

    @property
    def key_parts(self) -> dict[str, Any]:
        """What of it decides results; device, offloading and folder do not."""
        size = {} if self.resolution is None else {"resolution": self.resolution}
        return {"model": self.identity, "dtype": self.dtype, "scheduler": self.scheduler, **size}
