"""Which model a manifest is about: the shipped one, a local folder or file, or a hub revision."""

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

from conceptprune.manifest.fields import PromptText, Section


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
        return str(Path(info.context["folder"], folder)) if info.context else folder


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
        return str(Path(info.context["folder"], path)) if info.context else path


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


_MODEL_KEYS = ("builtin", "folder", "file", "hub")
_ONE_MODEL = "exactly one of builtin, folder, file (with config), hub (with revision)"


def _model_tag(value: Any) -> str | None:
    if isinstance(value, dict):
        given = [key for key in _MODEL_KEYS if key in value]
    else:
        given = [key for key in _MODEL_KEYS if hasattr(value, key)]
    return f"<{given[0]}>" if len(given) == 1 else None


ModelRef = Annotated[
    Annotated[BuiltinModel, Tag("<builtin>")]
    | Annotated[FolderModel, Tag("<folder>")]
    | Annotated[FileModel, Tag("<file>")]
    | Annotated[HubModel, Tag("<hub>")],
    Discriminator(
        _model_tag,
        custom_error_type="manifest",
        custom_error_message=_ONE_MODEL,
        custom_error_context={"problems": (((), _ONE_MODEL),)},
    ),
]
