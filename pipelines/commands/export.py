"""`conceptprune export`: checkpoints without some concepts, each with metadata and a card."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar, get_args

import torch
from pydantic import ValidationError

from conceptprune.checkpoints.card import Form
from conceptprune.errors import UserError
from conceptprune.manifest import Fuse, FuseName
from conceptprune.masks.fusion import fuse_masks
from conceptprune.masks.mask import PruningMask
from conceptprune.store import Store
from conceptprune.units.results import fused, read_mask
from conceptprune.units.units import FusedMaskUnit

from ..console.logs import one_line
from ..records.collected import Collected
from ..records.ledger import open_ledger
from ..records.run_record import RunRecord
from ..records.runs import _nearest, finished_masks, mask_keys
from .export_files import Checkpoint, base_model, parts, run_to_export, write_checkpoints
from .output import check_unused

FORMS: tuple[Form, ...] = get_args(Form)
FUSIONS: tuple[FuseName, ...] = get_args(FuseName)

T = TypeVar("T", bound=str)
Sides = tuple[tuple[str, str], ...]
"""Keys of (target, base) statistics."""


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
    chosen = choice("--as", form, FORMS)
    if seal and chosen == "mask":
        raise UserError("--seal: a mask is the list of places itself; seal a delta or a pipeline")
    fusion = _fusion(fuse, alpha, fraction)
    out = out.resolve()
    check_unused(out)
    store = Store(store_uri)
    record = run_to_export(store, run)
    without: dict[str, str] = {}
    if every:
        keys, without = finished_masks(store, record)
    else:
        keys = mask_keys(store, record, concepts)
    made = parts(store, keys)
    masks = [part.mask for part in made]
    if len(masks) > 1 and fusion:
        fused_mask = _fused(store, record, keys, fusion, model)
        checkpoints = [Checkpoint(mask=fused_mask, parts=made)]
    else:
        checkpoints = [Checkpoint(mask=part.mask, parts=[part]) for part in made]
    write_checkpoints(
        store,
        record,
        checkpoints,
        out=out,
        form=chosen,
        model=model,
        seal=seal,
        without=without,
    )


def _fusion(how: str | None, alpha: float | None, fraction: float | None) -> Fuse | None:
    """The fusion that the options request; None for one checkpoint per concept."""
    if how is None:
        if alpha is not None or fraction is not None:
            raise UserError("--alpha and --fraction are settings of --fuse")
        return None
    try:
        return Fuse(how=choice("--fuse", how, FUSIONS), alpha=alpha, fraction=fraction)
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
    unit = FusedMaskUnit(masks=tuple(keys.values()), erased=tuple(keys), fusion=fuse)
    if fuse.how != "budget":
        named = keys.items()
        return fuse_masks((read_mask(store, key, of=name) for name, key in named), fuse)
    folder = base_model(record, model)
    provenance = read_mask(store, unit.masks[0], of=unit.erased[:1]).provenance
    sides, retained = _sides(store, record, list(keys))
    # As for all concepts of the run: one concept's mask may use fewer calls.
    tau: int | None = record.asked.get("pruning", "tau")
    unit = replace(unit, sides=sides, retained=retained, tau=tau)
    if not provenance.get("dtype"):
        raise UserError("--fuse budget: the first mask does not say in which dtype it was made")
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


def choice(option: str, value: str, allowed: Sequence[T]) -> T:
    """The one of the allowed values that an option has.

    Raises:
        UserError: it has none of them.
    """
    for each in allowed:
        if value == each:
            return each
    raise UserError(f"{option} {value}: allowed are {', '.join(allowed)}{_nearest(value, allowed)}")
