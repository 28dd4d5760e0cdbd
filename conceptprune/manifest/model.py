"""How a manifest names a model: shipped, a folder, a file, a URI, or a pinned hub revision."""

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

from conceptprune.manifest.fields import PromptText, Section, beside
from conceptprune.models.source import PIPELINE_FILES, ModelSource


class BuiltinModel(Section):
    """A model that ships with the package."""

    builtin: Literal["studio"]


class FolderModel(Section):
    """A local `from_pretrained` folder."""

    folder: Annotated[
        PromptText,
        Field(description="the path of a from_pretrained folder, relative to the manifest"),
    ]

    @field_validator("folder")
    @classmethod
    def _relative_to_the_manifest(cls, folder: str, info: ValidationInfo) -> str:
        return beside(folder, info)


class FileModel(Section):
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


class HubModel(Section):
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


class RemoteModel(Section):
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


def source_of(model: ModelRef, files: tuple[str, ...] = PIPELINE_FILES) -> ModelSource:
    """The source that a `model:` section names; of a language model, with its own `files`."""
    if isinstance(model, BuiltinModel):
        return ModelSource(label=model.builtin, builtin=True, files=files)
    if isinstance(model, FolderModel):
        return ModelSource(label=Path(model.folder).name, local=model.folder, files=files)
    if isinstance(model, FileModel):
        label = Path(model.file).name
        return ModelSource(label=label, local=model.file, config=model.config, files=files)
    if isinstance(model, RemoteModel):
        name = model.uri.rstrip("/").rsplit("/", 1)[-1]
        return ModelSource(label=name, uri=model.uri, files=files)
    return ModelSource(label=model.hub, revision=model.revision, files=files)
