"""How a manifest names a model: shipped, a folder, a file, a URI, or a pinned hub revision."""

from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    Discriminator,
    Field,
    Strict,
    Tag,
    ValidationInfo,
    field_validator,
)

from conceptprune.errors import UserError
from conceptprune.manifest.fields import PromptText, Section, beside
from conceptprune.models.hub import fetched_from_hub
from conceptprune.studio import model_path

PIPELINE_FILES = ("model_index.json", "*/*.json", "*/*.txt", "*/*.safetensors", "*/*.model")
"""Patterns of a pipeline's files: no pickled checkpoint, no code."""


class Model(Section):
    """What all ways to name a model have in common."""

    @property
    @abstractmethod
    def label(self) -> str:
        """What masks and cards call it: "studio", the name of a folder or file, or "org/name"."""

    @property
    def hub_revision(self) -> str | None:
        """The commit id of a hub model; None for all others."""
        return None

    def current_listing(self) -> str | None:
        """Digest of what there is at a URI just now; None for all others.

        Raises:
            UserError, StoreError: what is there is no model, or cannot be listed.
        """
        return None

    @abstractmethod
    def local_folder(
        self, files: Sequence[str] = PIPELINE_FILES, listing: str | None = None
    ) -> Path:
        """The model's folder on this machine.

        A remote or hub model is fetched, and a single file converted, once per machine.

        Args:
            files: patterns of the files it consists of, for those that are fetched.
            listing: what must still be at a URI (`current_listing`); None does not look.

        Raises:
            UserError: there is no such folder, file or model, it is not open to this machine, the
                file is not of the model that its configs say, or what is at the URI has changed.
            StoreError: the place or the hub cannot be reached just now.
        """


class BuiltinModel(Model):
    """A model that ships with the package."""

    builtin: Literal["studio"]

    @property
    def label(self) -> str:
        """Its name."""
        return self.builtin

    def local_folder(
        self, files: Sequence[str] = PIPELINE_FILES, listing: str | None = None
    ) -> Path:
        """Where it is installed."""
        return model_path()


class FolderModel(Model):
    """A local `from_pretrained` folder."""

    folder: Annotated[
        PromptText,
        Field(description="the path of a from_pretrained folder, relative to the manifest"),
    ]

    @field_validator("folder")
    @classmethod
    def _relative_to_the_manifest(cls, folder: str, info: ValidationInfo) -> str:
        return beside(folder, info)

    @property
    def label(self) -> str:
        """The folder's name."""
        return Path(self.folder).name

    def local_folder(
        self, files: Sequence[str] = PIPELINE_FILES, listing: str | None = None
    ) -> Path:
        """The folder itself."""
        folder = Path(self.folder)
        if not folder.is_dir():
            raise UserError(f"model: {folder} is not a folder on this machine")
        return folder


class FileModel(Model):
    """A local single-file checkpoint, and the configs that such a file does not have."""

    file: Annotated[
        PromptText,
        Field(
            pattern=r"\.safetensors$",
            description="the path of a .safetensors file, relative to the manifest (a pickled "
            ".ckpt can run code when it is opened and is not read: convert it first)",
        ),
    ]
    config: Annotated[
        PromptText,
        Field(
            description="the path of a folder with the model's model_index.json, configs and "
            "tokenizers, relative to the manifest: the file has weights only"
        ),
    ]

    @field_validator("file", "config")
    @classmethod
    def _relative_to_the_manifest(cls, path: str, info: ValidationInfo) -> str:
        return beside(path, info)

    @property
    def label(self) -> str:
        """The file's name."""
        return Path(self.file).name

    def local_folder(
        self, files: Sequence[str] = PIPELINE_FILES, listing: str | None = None
    ) -> Path:
        """The folder it is converted into, once per machine."""
        # Here, because it imports torch.
        from conceptprune.models.from_single_file import converted_folder

        return converted_folder(Path(self.file), Path(self.config))


class HubModel(Model):
    """A model of the Hugging Face hub, pinned so that a rerun means the same weights."""

    hub: Annotated[
        str,
        Strict(),
        Field(
            pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9._-]*$",
            description="a hub id of the form organisation/name",
        ),
    ]
    revision: Annotated[
        str,
        Strict(),
        Field(
            pattern=r"^[0-9a-f]{40}$",
            description="a full commit id, 40 characters of 0-9 and a-f (a branch or tag can move)",
        ),
    ]

    @property
    def label(self) -> str:
        """Its id."""
        return self.hub

    @property
    def hub_revision(self) -> str:
        """The commit id."""
        return self.revision

    def local_folder(
        self, files: Sequence[str] = PIPELINE_FILES, listing: str | None = None
    ) -> Path:
        """This machine's copy, in the hub's own cache."""
        return fetched_from_hub(self.hub, self.revision, files)


class RemoteModel(Model):
    """A `from_pretrained` folder in an object store; each node fetches it once."""

    uri: Annotated[
        str,
        Strict(),
        Field(
            # By name: others read files of this machine (file), or open what they find (zip).
            pattern=r"^(s3|gs|az|hf|https)://[^@?#\s:/]+(:[0-9]+)?(/[^@?#\s:]*(:[^@?#\s:]+)*)?$",
            description="a URI such as s3://bucket/models/name, of s3, gs, az, hf or https, "
            "without credentials in it",
        ),
    ]

    @property
    def label(self) -> str:
        """The last part of the URI."""
        return self.uri.rstrip("/").rsplit("/", 1)[-1]

    def current_listing(self) -> str:
        """Digest of the names, sizes and versions of what is there just now."""
        from conceptprune.models.remote import listing_digest

        return listing_digest(self.uri, PIPELINE_FILES)

    def local_folder(
        self, files: Sequence[str] = PIPELINE_FILES, listing: str | None = None
    ) -> Path:
        """This machine's copy, fetched once."""
        # Here, because it imports fsspec.
        from conceptprune.models.remote import fetched

        return fetched(self.uri, files, listing)


def _one_of(*keys: str) -> Discriminator:
    """Chooses among sections by the one of `keys` that is given."""
    with_it = {"file": "file (with config)", "hub": "hub (with revision)"}
    allowed = f"exactly one of {', '.join(with_it.get(key, key) for key in keys)}"
    context: dict[str, Any] = {"problems": (((), allowed),)}

    def tag(value: Any) -> str | None:
        if isinstance(value, dict):
            given = [key for key in keys if key in value]
        else:
            given = [key for key in keys if hasattr(value, key)]
        return f"<{given[0]}>" if len(given) == 1 else None

    return Discriminator(
        tag,
        custom_error_type="manifest",
        custom_error_message=allowed,
        custom_error_context=context,
    )


ModelRef = Annotated[
    Annotated[BuiltinModel, Tag("<builtin>")]
    | Annotated[FolderModel, Tag("<folder>")]
    | Annotated[FileModel, Tag("<file>")]
    | Annotated[RemoteModel, Tag("<uri>")]
    | Annotated[HubModel, Tag("<hub>")],
    _one_of("builtin", "folder", "file", "uri", "hub"),
]
LanguageModelRef = Annotated[
    Annotated[FolderModel, Tag("<folder>")]
    | Annotated[RemoteModel, Tag("<uri>")]
    | Annotated[HubModel, Tag("<hub>")],
    _one_of("folder", "uri", "hub"),
]
