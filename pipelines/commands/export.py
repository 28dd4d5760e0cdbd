"""`conceptprune export`: checkpoints without some concepts, each with metadata and a card."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar, get_args

import torch
from pydantic import ValidationError

from conceptprune.checkpoints.card import (
    CARD_FILE,
    METADATA_FILE,
    Evaluation,
    Exported,
    Form,
    metadata_json,
    model_card,
)
from conceptprune.checkpoints.files import Edit, delta_file, pipeline_files, zeroed
from conceptprune.checkpoints.seal import sealer
from conceptprune.checkpoints.single_file import check_single_file, write_single_file
from conceptprune.checkpoints.statement import STATEMENT_FILE, state
from conceptprune.digest import digest_file
from conceptprune.errors import StoreError, UserError
from conceptprune.manifest import Fuse, FuseName
from conceptprune.masks.fusion import fuse_masks
from conceptprune.masks.mask import PruningMask
from conceptprune.models.families import identity
from conceptprune.models.from_single_file import converted_from
from conceptprune.store import Store
from conceptprune.studio import LABEL, model_path
from conceptprune.units.results import fused, read_mask
from conceptprune.units.units import FusedMaskUnit

from ..console.logs import one_line
from ..console.names import slug, some
from ..console.terminal import echo
from ..records.collected import Collected
from ..records.ledger import open_ledger
from ..records.run_record import RunRecord
from ..records.runs import MAX_NAMES_SHOWN, _nearest, find_run, finished_masks, mask_keys
from ..records.trail import exported as exported_event
from ..report.cards import evaluated_masks, measurements
from ..report.data import judged_masks
from .output import check_unused, complete_or_absent
from .provenance import Part, predicate

FORMS: tuple[Form, ...] = get_args(Form)
FUSIONS: tuple[FuseName, ...] = get_args(FuseName)
DIGEST_CHARS = 8

T = TypeVar("T", bound=str)
Sides = tuple[tuple[str, str], ...]
"""Keys of (target, base) statistics."""
Write = Callable[["Checkpoint", Path], None]
"""Writes a checkpoint's files into a folder, in one form."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """One checkpoint to write: the combined mask, and the masks of its concepts."""

    mask: PruningMask
    parts: Sequence[PruningMask]

    @property
    def name(self) -> str:
        """A file name; the digest separates names that differ only in unsafe characters."""
        names = self.mask.concepts
        how = self.mask.provenance.get("fusion", {}).get("how", "union")
        text = names[0] if len(names) == 1 else f"{how} of {len(names)}"
        return f"{slug(text) or 'concept'}-{self.mask.digest[:DIGEST_CHARS]}"

    @property
    def file(self) -> str:
        """Name of the safetensors file, in the forms that are a single file."""
        return f"{self.name}.safetensors"

    def delta_file(self, component: str) -> str:
        """Name of the file with a component's edited tensors."""
        if component == self.mask.components[0]:
            return self.file
        return f"{self.name}.{component}.safetensors"


def export_concepts(
    store_uri: str,
    concepts: list[str],
    *,
    every: bool = False,
    out: Path,
    form: str,
    fuse: str | None,
    alpha: float | None = None,
    fraction: float | None = None,
    run: str | None,
    model: Path | None,
    seal: bool = False,
) -> None:
    """Write checkpoints without `concepts` to the folder `out`, completely or not at all.

    With `every`, these are all concepts of the run that have a mask; the others are reported.

    One concept, or several with `fuse`, are written to `out` itself; several without `fuse` each
    get a folder in it.

    Raises:
        UserError: an unknown form, fusion, run or concept, an unfinished mask, a folder that is in
            use, or a base model that is not the run's.
    """
    if every == bool(concepts):
        raise UserError("export: name concepts, or give --all for every one that has a mask")
    chosen = _choice("--as", form, FORMS)
    if seal and chosen == "mask":
        raise UserError("--seal: a mask is the list of places itself; seal a delta or a pipeline")
    fusion = _fusion(fuse, alpha, fraction)
    out = out.resolve()
    check_unused(out)
    store = Store(store_uri)
    record = find_run(store, run)
    if not record.denoiser_weights:
        raise UserError(
            f"run {record.run} was recorded by a later version of conceptprune, and not as this "
            "one can export it: use that version"
        )
    without: dict[str, str] = {}
    if every:
        keys, without = finished_masks(store, record)
    else:
        keys = mask_keys(store, record, concepts)
    masks = [read_mask(store, key, of=name) for name, key in keys.items()]
    made = {
        mask.digest: Part(mask=mask, commit=store.get("mask", key))
        for mask, key in zip(masks, keys.values(), strict=True)
    }
    write = _writer(chosen, record, model, seal=seal)
    if len(masks) > 1 and fusion:
        fused_mask = _fused(store, record, keys, fusion, model)
        checkpoints = [Checkpoint(mask=fused_mask, parts=masks)]
    else:
        checkpoints = [Checkpoint(mask=mask, parts=[mask]) for mask in masks]
    folders = [out / item.name if len(checkpoints) > 1 else out for item in checkpoints]
    # Not valid for a sealed checkpoint, whose pruned entries are not zero.
    judged = (lambda _: None) if seal else judged_masks(store, record)
    evaluated = (lambda _: ()) if seal else _evaluated(store)
    with complete_or_absent(out) as temporary:
        for folder, checkpoint in zip(folders, checkpoints, strict=True):
            inside = temporary / folder.relative_to(out)
            inside.mkdir(exist_ok=True)
            write(checkpoint, inside)
            exported = Exported(
                form=chosen,
                mask=checkpoint.mask,
                parts=checkpoint.parts,
                model_digest=record.model_identity,
                pipeline=record.pipeline,
                denoiser_weights=record.denoiser_weights,
                measurements=measurements(judged(checkpoint.mask)),
                evaluations=evaluated(checkpoint.mask),
                sealed=seal,
                file=None if chosen == "pipeline" else checkpoint.file,
                delta_files={
                    component: checkpoint.delta_file(component)
                    for component in checkpoint.mask.components
                    if chosen in ("delta", "unet")
                },
            )
            # Last, because a base model's folder may contain its own card.
            (inside / METADATA_FILE).write_text(metadata_json(exported), encoding="utf-8")
            (inside / CARD_FILE).write_text(model_card(exported), encoding="utf-8")
            said = predicate(
                exported, record, [made[part.digest] for part in checkpoint.parts], without
            )
            # It contains the digests of all other files.
            (inside / STATEMENT_FILE).write_bytes(state(inside, said).to_bytes())
        statements = [digest_file(path) for path in temporary.rglob(STATEMENT_FILE)]
    _put_on_record(store, record, chosen, list(made.values()), statements)
    for name, reason in without.items():
        echo(one_line(f'note: "{name}" is not erased, as it has no mask ({reason})'), err=True)
    for folder, checkpoint in zip(folders, checkpoints, strict=True):
        mask = checkpoint.mask
        echo(
            f"wrote {folder}: {chosen} without {one_line(some(mask.concepts, MAX_NAMES_SHOWN))}, "
            f"{mask.num_entries:,} weights {'sealed' if seal else 'zeroed'} "
            f"({100 * mask.density:.2f} % of the site)"
        )


def _put_on_record(
    store: Store,
    record: RunRecord,
    form: Form,
    parts: Sequence[Part],
    statements: Sequence[str],
) -> None:
    digests = {part.mask.concepts[0]: part.commit.objects["mask"].digest for part in parts}
    try:
        exported_event(store, run=record.run, form=form, masks=digests, statements=statements)
    except StoreError as error:
        # Whoever can read the masks needs no export: it is no guard, and must not be in the way.
        echo(f"note: this export is not on record in the store: {error}", err=True)


def _evaluated(store: Store) -> Callable[[PruningMask], Sequence[Evaluation]]:
    try:
        return evaluated_masks(store)
    except StoreError as error:
        # The checkpoint is fine without; only `report` requires readable evaluations.
        echo(f"note: the card is without evaluations: {error}", err=True)
        return lambda _: ()


def _writer(form: Form, record: RunRecord, model: Path | None, *, seal: bool) -> Write:
    if form == "mask":
        return lambda checkpoint, out: checkpoint.mask.save(out / checkpoint.file)
    base = _base_model(record, model)
    if form == "single-file":
        check_single_file(record.pipeline)
        return lambda checkpoint, out: write_single_file(
            checkpoint.mask, base, out / checkpoint.file, _edit_of(checkpoint.mask, seal)
        )
    if form == "pipeline":
        return lambda checkpoint, out: _write_files(
            out, pipeline_files(checkpoint.mask, base, _edit_of(checkpoint.mask, seal))
        )
    return lambda checkpoint, out: _write_files(
        out,
        (
            (
                checkpoint.delta_file(component),
                delta_file(
                    checkpoint.mask,
                    base,
                    component,
                    _edit_of(checkpoint.mask, seal),
                    whole=form == "unet",
                ),
            )
            for component in checkpoint.mask.components
        ),
    )


def _write_files(out: Path, files: Iterable[tuple[str, bytes]]) -> None:
    for path, data in files:
        (out / path).parent.mkdir(parents=True, exist_ok=True)
        (out / path).write_bytes(data)


def _edit_of(mask: PruningMask, seal: bool) -> Edit:
    return sealer(mask) if seal else zeroed


def _fusion(how: str | None, alpha: float | None, fraction: float | None) -> Fuse | None:
    """The fusion that the options request; None for one checkpoint per concept."""
    if how is None:
        if alpha is not None or fraction is not None:
            raise UserError("--alpha and --fraction are settings of --fuse")
        return None
    try:
        return Fuse(how=_choice("--fuse", how, FUSIONS), alpha=alpha, fraction=fraction)
    except ValidationError as error:
        details = error.errors()[0]
        raise UserError(f"--{details['loc'][0]}: {details['msg']}") from error


def _fused(
    store: Store,
    record: RunRecord,
    keys: Mapping[str, str],
    fuse: Fuse,
    model: Path | None,
) -> PruningMask:
    """One mask of several concepts; `keys` are their masks' by concept name."""
    kinds = {concept.name: concept.kind for concept in record.asked.concepts}
    fuse = fuse.for_kinds(kinds[name] for name in keys)
    unit = FusedMaskUnit(masks=tuple(keys.values()), fusion=fuse)
    if fuse.how != "budget":
        return fuse_masks((read_mask(store, key) for key in unit.masks), fuse)
    folder = _base_model(record, model)
    provenance = read_mask(store, unit.masks[0]).provenance
    sides, retained = _sides(store, record, list(keys))
    # As for all concepts of the run: one concept's mask may use fewer calls.
    tau: int | None = record.asked.get("pruning", "tau")
    unit = replace(unit, sides=sides, retained=retained, tau=tau)
    dtype: torch.dtype = getattr(torch, provenance["dtype"])
    return fused(store, unit, folder, dtype)


def _sides(store: Store, record: RunRecord, concepts: Sequence[str]) -> tuple[Sides, Sides]:
    """The statistics for a budget of some of a run's concepts: their sides, and the spared ones.

    Raises:
        UserError: it is not in the store, or the run does not say what it retains.
    """
    collected = Collected.of(store, record, open_ledger(store, record.run))
    if record.asked.get("retain") is None:
        raise UserError(f"--fuse budget: run {record.run} does not say which concepts it retains")

    def sides(name: str) -> tuple[str, str]:
        if name not in collected.pairs:
            raise UserError(
                f'--fuse budget: the prompts of "{one_line(name)}" in run {record.run} are not in '
                f"{store.uri}; run `conceptprune erase` again"
            )
        target, base = collected.sides(name)
        if target and base and store.find("statistics", target) and store.find("statistics", base):
            return target, base
        raise UserError(
            f'--fuse budget: the statistics of "{one_line(name)}" in run {record.run} are not in '
            f"{store.uri}; run `conceptprune erase` with outputs: {{fuse: budget}}, which collects "
            "what it needs"
        )

    spared = [name for name in record.asked.retained if name not in concepts]
    return tuple(map(sides, concepts)), tuple(map(sides, spared))


def _base_model(record: RunRecord, model: Path | None) -> Path:
    """The folder of the run's base model, which must be identical.

    A single file is accepted if a run converted it on this machine.
    """
    if model is None and record.model_label != LABEL:
        raise UserError(
            f"--model: the folder of {record.model_label} is needed, as its weights are not in "
            "the store"
        )
    folder = model or model_path()
    if folder.is_file():
        found = [path for path in converted_from(folder) if identity(path) == record.model_identity]
        if not found:
            raise UserError(
                f"--model: no run on this machine had {folder} as its model; name the folder of "
                f"{record.model_label} instead"
            )
        return found[0]
    if not folder.is_dir():
        raise UserError(f"--model: {folder} is not a folder on this machine")
    digest = identity(folder)
    if digest != record.model_identity:
        raise UserError(
            f"--model: {folder} is not the model of run {record.run} ({record.model_label}): its "
            f"digest is {digest[:12]}, the run's is {record.model_identity[:12]}"
        )
    return folder


def _choice(option: str, value: str, allowed: Sequence[T]) -> T:
    for choice in allowed:
        if value == choice:
            return choice
    raise UserError(f"{option} {value}: allowed are {', '.join(allowed)}{_nearest(value, allowed)}")
