"""What is evaluated: the base model, the base model with a mask or a delta, or another folder."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from conceptprune.checkpoints.card import METADATA_FILE
from conceptprune.checkpoints.delta import Delta
from conceptprune.checkpoints.delta_reader import MOST_BYTES
from conceptprune.digest import digest_bytes, digest_file, digest_json
from conceptprune.errors import ModelMismatchError, UserError
from conceptprune.manifest.model import FolderModel
from conceptprune.manifest.model_settings import ModelSettings
from conceptprune.masks.mask import PruningMask
from conceptprune.masks.mask_file import MOST_BYTES as MOST_MASK_BYTES
from conceptprune.masks.switch import difference
from conceptprune.models.components import read_index
from conceptprune.models.families import check_model, identity
from conceptprune.models.weights import (
    PICKLED,
    checkpoint_files,
    read_layers,
)
from conceptprune.store import ObjectRef
from conceptprune.strict_reading import plain_json, read_regular

Kind = Literal["base", "mask", "delta", "folder"]
KINDS: tuple[Kind, ...] = get_args(Kind)
FORM = "[LABEL=]base, [LABEL=]mask:FILE-OR-CONCEPT, [LABEL=]delta:FILE or [LABEL=]folder:PATH"


MOST_METADATA_BYTES = 2**26
"""Limit for what an export says of itself: a few lines for each concept."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A checkpoint as the command line names it."""

    label: str | None
    kind: Kind
    value: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Edit:
    """A mask or a delta in the store, to apply to the base model."""

    kind: Literal["mask", "delta"]
    ref: ObjectRef


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageModel:
    """The model that generates images, as a worker needs it, without any label."""

    model: ModelSettings
    identity: str
    """Digest of the model's files that decide its images (`images_identity`)."""
    edit: Edit | None = None

    @property
    def key_parts(self) -> dict[str, Any]:
        """The parts that decide images."""
        edit = None if self.edit is None else [self.edit.kind, self.edit.ref.digest]
        return {**self.model.key_parts, "pictures": self.identity, "edit": edit}

    @property
    def applies(self) -> tuple[str, ...]:
        """Path in the store of the edit, which was not made by a unit."""
        return () if self.edit is None else (self.edit.ref.path,)


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """One checkpoint of an evaluation."""

    label: str
    kind: Kind
    digest: str
    """Digest of what was applied, or of the folder; empty for the base."""
    erased: tuple[str, ...]
    """Concepts that it claims to have erased."""
    image_model: ImageModel


def parse_of(text: str) -> Asked:
    """Read `[LABEL=]KIND:VALUE`.

    Raises:
        UserError: it is not of that form.
    """
    head, colon, value = text.partition(":")
    label, equals, kind = head.rpartition("=")
    if kind not in KINDS or (equals and not label) or (kind == "base") == bool(colon):
        raise UserError(f"--of {text}: give {FORM}")
    if kind != "base" and not value:
        raise UserError(f"--of {text}: nothing after {kind}: (give {FORM})")
    return Asked(label=label or None, kind=kind, value=value)


def is_mask_file(value: str) -> bool:
    """Whether the text after `mask:` is a file's path, not a concept's name."""
    path = Path(value)
    return path.suffix == ".safetensors" or path.is_file()


def images_identity(folder: Path) -> str:
    """Digest of a model folder's files that decide its images: of the denoiser and the decoder."""
    vae = sorted((folder / "vae").glob("*.json"))
    if (folder / "vae").is_dir():
        vae += checkpoint_files(folder / "vae")
    files = {path.relative_to(folder).as_posix(): digest_file(path) for path in vae}
    return digest_json({"denoiser": identity(folder), "vae": files})


@dataclass(frozen=True, slots=True, kw_only=True)
class Resolved:
    """A checkpoint that was found, and its edit: bytes to be written to the store, or there."""

    label: str
    kind: Kind
    digest: str
    erased: tuple[str, ...]
    data: bytes | None = None
    ref: ObjectRef | None = None
    """Where the edit is in the store already: a hundred masks need not be in memory at once."""
    model: ModelSettings | None = None
    """The model, for a folder."""

    def placed(self, base: ImageModel, put: Callable[[bytes, str], ObjectRef]) -> Checkpoint:
        """The checkpoint, with its edit written to the store by `put` (bytes, kind)."""
        image_model = base
        ref = self.ref or (put(self.data, self.kind) if self.data is not None else None)
        if self.kind in ("mask", "delta") and ref is not None:
            edit = Edit(kind=self.kind, ref=ref)
            image_model = ImageModel(model=base.model, identity=base.identity, edit=edit)
        elif self.model is not None:
            image_model = ImageModel(
                model=self.model, identity=images_identity(self.model.folder())
            )
        return Checkpoint(
            label=self.label,
            kind=self.kind,
            digest=self.digest,
            erased=self.erased,
            image_model=image_model,
        )


def resolve(
    asked: Asked, base: ModelSettings, named_mask: Callable[[str], PruningMask]
) -> Resolved:
    """Find a checkpoint and check that it fits the base model; nothing is written.

    `named_mask` finds the mask of a concept by its name.

    Raises:
        UserError, ModelMismatchError: it does not exist, is damaged, or is for another model.
    """
    match asked.kind:
        case "base":
            return Resolved(label=asked.label or "base", kind="base", digest="", erased=())
        case "mask":
            return _resolve_mask(asked, base, named_mask)
        case "delta":
            path = Path(asked.value)
            if path.suffix in PICKLED:
                raise UserError(
                    f"--of delta:{asked.value}: a pickled checkpoint is not opened here; "
                    "`conceptprune baseline esd` reads those of published erasures safely and "
                    "writes a delta"
                )
            data = _read(path, asked)
            try:
                delta = Delta.from_bytes(data, base.folder())
            except UserError as error:
                raise type(error)(f"--of delta:{asked.value}: {error}") from error
            return Resolved(
                label=asked.label or path.stem,
                kind="delta",
                digest=digest_bytes(data),
                erased=delta.concepts,
                data=data,
            )
        case "folder":
            return _resolve_folder(asked, base)


def _resolve_mask(
    asked: Asked, base: ModelSettings, named_mask: Callable[[str], PruningMask]
) -> Resolved:
    if is_mask_file(asked.value):
        try:
            mask = PruningMask.from_bytes(_read(Path(asked.value), asked))
        except UserError as error:
            raise UserError(f"--of mask:{asked.value}: {error}") from error
    else:
        mask = named_mask(asked.value)
    weights = read_layers(base.folder(), mask.layers, mask.component)
    for name, layer in mask.layers.items():
        if not layer.fits(weights[name]):
            raise ModelMismatchError(
                f"--of mask:{asked.value}: was made for {mask.model_name}, and {name} of "
                f"{base.source.label} {difference(mask, name, weights[name])}"
            )
    return Resolved(
        label=asked.label or ", ".join(mask.concepts),
        kind="mask",
        digest=mask.digest,
        erased=mask.concepts,
        data=mask.to_bytes(),
    )


def _resolve_folder(asked: Asked, base: ModelSettings) -> Resolved:
    folder = Path(asked.value).absolute()
    if not folder.is_dir():
        raise UserError(f"--of folder:{asked.value}: not a folder on this machine")
    check_model(folder)
    model = ModelSettings(
        # Unchecked: a manifest's rules of how to write a path are not for the command line's.
        source=FolderModel.model_construct(folder=str(folder)),
        identity=identity(folder),
        pipeline=read_index(folder)["_class_name"],
        dtype=base.dtype,
        device=base.device,
        scheduler=base.scheduler,
        resolution=base.resolution,
    )
    return Resolved(
        label=asked.label or folder.name,
        kind="folder",
        digest=images_identity(folder),
        erased=_claimed(folder),
        model=model,
    )


def _claimed(folder: Path) -> tuple[str, ...]:
    """The concepts that one of our exports claims to have erased; empty for other folders."""
    try:
        content = plain_json(read_regular(folder / METADATA_FILE, MOST_METADATA_BYTES))
        return tuple(str(name) for name in content["concepts"])
    except FileNotFoundError:
        return ()
    except (OSError, ValueError, KeyError, TypeError) as error:
        # Without names, the checkpoint would be judged on concepts that it did not erase.
        raise UserError(
            f"--of folder:{folder}: {METADATA_FILE} does not say what it erased ({error})"
        ) from error


def _read(path: Path, asked: Asked) -> bytes:
    try:
        return read_regular(path, MOST_MASK_BYTES if asked.kind == "mask" else MOST_BYTES)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"--of {asked.kind}:{asked.value}: cannot be read: {reason}") from error
