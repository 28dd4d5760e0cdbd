"""How a manifest names a model: shipped, in a folder, at a URI, or a pinned revision on the hub."""

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
            pattern=r"^[a-z][a-z0-9+]*://[^@?#\s]+$",
            description="a URI such as s3://bucket/models/name, without credentials in it",
        ),
    ]


def _one_of(*keys: str) -> Discriminator:
    """Chooses among sections by the one of `keys` that is given."""
    allowed = f"exactly one of {', '.join(keys)} (with revision)"
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
    | Annotated[RemoteModel, Tag("<uri>")]
    | Annotated[HubModel, Tag("<hub>")],
    _one_of("builtin", "folder", "uri", "hub"),
]
LanguageModelRef = Annotated[
    Annotated[FolderModel, Tag("<folder>")]
    | Annotated[RemoteModel, Tag("<uri>")]
    | Annotated[HubModel, Tag("<hub>")],
    _one_of("folder", "uri", "hub"),
]
