"""Where a model comes from: the shipped demo model, a local folder, or a pinned hub revision."""

from dataclasses import dataclass
from pathlib import Path

from conceptprune.errors import UserError
from conceptprune.manifest import BuiltinModel, FolderModel, Manifest
from conceptprune.manifest.model import ModelRef
from conceptprune.studio import model_path

HUB_FILES = ["model_index.json", "*/*.json", "*/*.txt", "*/*.safetensors", "*/*.model"]
HUB_NOT = ["*.fp16.*", "*.fp16-*", "*.non_ema.*"]
"""What is fetched of a hub model, and what not: no pickled checkpoint, no variants."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSource:
    """A model by name; `folder()` gives its files on the machine that asks."""

    label: str
    """What masks and cards call it: "studio", a folder's name, or "org/name"."""
    builtin: bool = False
    local: str | None = None
    revision: str | None = None

    @classmethod
    def of(cls, manifest: Manifest) -> "ModelSource":
        """The source a manifest names."""
        return source_of(manifest.model)

    def folder(self) -> Path:
        """The model's folder on this machine; a hub model is fetched once per machine.

        Raises:
            UserError: there is no such folder, or the hub cannot be reached.
        """
        if self.builtin:
            return model_path()
        if self.local is not None:
            folder = Path(self.local)
            if not folder.is_dir():
                raise UserError(f"model: {folder} is not a folder on this machine")
            return folder
        # Imported here: only a hub model needs it, and it is slow to import.
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

        try:
            return Path(
                snapshot_download(
                    self.label,
                    revision=self.revision,
                    allow_patterns=HUB_FILES,
                    ignore_patterns=HUB_NOT,
                )
            )
        except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
            raise UserError(
                f"model: cannot fetch {self.label} at {self.revision} from the hub: {error}"
            ) from error


def source_of(model: ModelRef) -> ModelSource:
    """The source that a `model:` section names."""
    if isinstance(model, BuiltinModel):
        return ModelSource(label=model.builtin, builtin=True)
    if isinstance(model, FolderModel):
        return ModelSource(label=Path(model.folder).name, local=model.folder)
    return ModelSource(label=model.hub, revision=model.revision)
