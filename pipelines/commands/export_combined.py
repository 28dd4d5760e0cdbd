"""`conceptprune export --combined`: the run's own combined checkpoint, as it is in the store."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from conceptprune.checkpoints.card import CARD_FILE, METADATA_FILE, Form
from conceptprune.checkpoints.delta import Delta, delta_changes
from conceptprune.checkpoints.delta_header import DeltaHeader
from conceptprune.checkpoints.delta_reader import read_delta
from conceptprune.checkpoints.files import changed_pipeline, encode_delta, whole_component
from conceptprune.checkpoints.rewording_card import Rewording
from conceptprune.checkpoints.single_file import check_single_file, write_changed_file
from conceptprune.checkpoints.statement import STATEMENT_FILE, state
from conceptprune.digest import digest_file
from conceptprune.errors import UserError
from conceptprune.store import Store
from conceptprune.units.find import find_commit
from conceptprune.units.results import read_mask
from conceptprune.units.rewording import check_rewording

from ..console.logs import one_line
from ..console.names import slug, some
from ..console.terminal import echo
from ..records.combined import how_combined
from ..records.run_record import RunRecord
from ..records.runs import MAX_NAMES_SHOWN, Combined, finished_combined
from ..report.cards import measurements
from ..report.data import judged_edits
from .export import FORMS, choice
from .export_files import (
    DIGEST_CHARS,
    Checkpoint,
    base_model,
    evaluated_or_told,
    parts,
    put_on_record,
    run_to_export,
    write_checkpoints,
    write_files,
)
from .output import check_unused, complete_or_absent
from .provenance import rewording_predicate


def export_combined(
    store_uri: str,
    concepts: Sequence[str] = (),
    *,
    every: bool = False,
    out: Path,
    form: str,
    fuse: str | None = None,
    run: str | None,
    model: Path | None,
    seal: bool = False,
) -> None:
    """Write the run's combined checkpoint to the folder `out`, completely or not at all.

    A fused mask can be written in every form, a rewording in every one but a mask's.

    Raises:
        UserError: an unknown form or run, a run without a finished combined checkpoint, options
            that it does not have, a folder in use, or a base model that is not the run's.
    """
    if concepts or every or fuse:
        what = "concept names" if concepts else "--all" if every else "--fuse"
        raise UserError(
            f"--combined: is without {what}, as the run has decided whom and how; to combine "
            "others, give names or --all, and --fuse, without --combined"
        )
    chosen = choice("--as", form, FORMS)
    if seal and chosen == "mask":
        raise UserError("--seal: a mask is the list of places itself; seal a delta or a pipeline")
    out = out.resolve()
    check_unused(out)
    store = Store(store_uri)
    record = run_to_export(store, run)
    combined = finished_combined(store, record)
    if how_combined(combined.row) == "fused":
        _export_mask(store, record, combined, out=out, form=chosen, model=model, seal=seal)
        return
    if chosen == "mask":
        raise UserError(
            f"--as mask: run {record.run} rewords its concepts, and a rewording has no mask; "
            f"allowed are {', '.join(each for each in FORMS if each != 'mask')}"
        )
    if seal:
        raise UserError(
            f"--seal: run {record.run} rewords its concepts, and a rewording has no zeros to hide"
        )
    _export_rewording(store, record, combined, out=out, form=chosen, model=model)


def _export_mask(
    store: Store,
    record: RunRecord,
    combined: Combined,
    *,
    out: Path,
    form: Form,
    model: Path | None,
    seal: bool,
) -> None:
    made = parts(store, {name: row["key"] for name, row in combined.parts.items()})
    # Before ledger/3, no row says in which order.
    names = tuple(combined.parts) if combined.row["needs"] else None
    mask = read_mask(store, combined.row["key"], of=names)
    write_checkpoints(
        store,
        record,
        [Checkpoint(mask=mask, parts=made, combined=combined.commit)],
        out=out,
        form=form,
        model=model,
        seal=seal,
        without=combined.without,
    )


def _export_rewording(
    store: Store,
    record: RunRecord,
    combined: Combined,
    *,
    out: Path,
    form: Form,
    model: Path | None,
) -> None:
    # Before everything is read: the delta itself is the only form that needs no model.
    folder = None if form == "delta" else base_model(record, model)
    if form == "single-file":
        check_single_file(record.pipeline)
    names = tuple(combined.parts)
    data = store.load(combined.commit, "delta")
    header = check_rewording(store, combined.commit, data, of=names)
    _, tensors = read_delta(data)
    digest = combined.commit.objects["delta"].digest
    how = names[0] if len(names) == 1 else f"rewording of {len(names)}"
    exported = Rewording(
        form=form,
        header=header,
        digest=digest,
        kinds={each.name: each.kind for each in record.asked.concepts if each.name in names},
        num_tensors=len(tensors),
        entries=sum(tensor.numel() for tensor in tensors.values()),
        denoiser_weights=record.denoiser_weights,
        model_digest=record.model_identity,
        pipeline=record.pipeline,
        file=None
        if form == "pipeline"
        else f"{slug(how) or 'rewording'}-{digest[:DIGEST_CHARS]}.safetensors",
        measurements=measurements(judged_edits(store, record)(digest, names)),
        evaluations=evaluated_or_told(store)(digest),
    )
    sums = {
        name: find_commit(store, row["kind"], row["key"]) for name, row in combined.parts.items()
    }
    said = rewording_predicate(exported, record, combined.commit, sums, combined.without)
    with complete_or_absent(out) as inside:
        _write(inside, exported, data, folder)
        # Last, because a base model's folder may contain its own card.
        (inside / METADATA_FILE).write_text(exported.metadata_json(), encoding="utf-8")
        (inside / CARD_FILE).write_text(exported.card(), encoding="utf-8")
        # It contains the digests of all other files.
        (inside / STATEMENT_FILE).write_bytes(state(inside, said).to_bytes())
        statements = [digest_file(inside / STATEMENT_FILE)]
    rewording: dict[str, Any] = {"delta": digest, "concepts": list(names)}
    put_on_record(store, record, form, statements, masks={}, rewording=rewording)
    for name, reason in combined.without.items():
        echo(one_line(f'note: "{name}" is not erased, as it has no sums ({reason})'), err=True)
    echo(
        f"wrote {out}: {form} without {one_line(some(names, MAX_NAMES_SHOWN))}, reworded: "
        f"{exported.entries:,} weights of keys and values edited"
    )


def _write(inside: Path, exported: Rewording, data: bytes, folder: Path | None) -> None:
    """Write the checkpoint's own files; `folder` is the base model, and None for a delta."""
    path = inside / (exported.file or "")
    if folder is None:
        path.write_bytes(data)
        return
    delta = Delta.from_bytes(data, folder)
    header = exported.header
    match exported.form:
        case "pipeline":
            write_files(inside, changed_pipeline(delta_changes(delta), folder))
        case "single-file":
            write_changed_file(
                delta_changes(delta),
                folder,
                path,
                component=header.component,
                concepts=header.concepts,
                mask=header.mask,
                provenance=header.provenance,
            )
        case _:
            path.write_bytes(_state_dict(delta, header, folder))


def _state_dict(delta: Delta, header: DeltaHeader, folder: Path) -> bytes:
    """The whole denoiser's, with the edited tensors in it."""
    tensors = whole_component(delta.tensors[header.component], folder / header.component)
    return encode_delta(
        tensors,
        component=header.component,
        concepts=header.concepts,
        mask=header.mask,
        provenance=header.provenance,
    )
