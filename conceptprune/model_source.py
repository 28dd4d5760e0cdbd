"""Where a model comes from: the shipped one, a local folder or file, or a pinned hub revision."""

from dataclasses import dataclass
from pathlib import Path

from conceptprune.errors import UserError
from conceptprune.manifest import BuiltinModel, FileModel, FolderModel, Manifest
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
    config: str | None = None
    """Where `local` is a single file: the folder of its configs."""
    revision: str | None = None

    @classmethod
    def of(cls, manifest: Manifest) -> "ModelSource":
        """The source a manifest names."""
        model = manifest.model
        if isinstance(model, BuiltinModel):
            return cls(label=model.builtin, builtin=True)
        if isinstance(model, FolderModel):
            return cls(label=Path(model.folder).name, local=model.folder)
        if isinstance(model, FileModel):
            return cls(label=Path(model.file).name, local=model.file, config=model.config)
        return cls(label=model.hub, revision=model.revision)

    def folder(self) -> Path:
        """The model's folder on this machine.

        A hub model is fetched, and a single file converted, once per machine.

        Raises:
            UserError: there is no such folder or file, the hub cannot be reached, or the file is
                not of the model that its configs say.
        """
        if self.builtin:
            return model_path()
        if self.local is not None and self.config is not None:
            # Here, because it imports torch.
            from conceptprune.single_file_model import converted_folder

            return converted_folder(Path(self.local), Path(self.config))
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
