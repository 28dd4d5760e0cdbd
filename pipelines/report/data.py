"""Everything a report says, read from the store: no model, no Ray."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

from pydantic import ValidationError

from conceptprune.collection.statistics import Statistics
from conceptprune.errors import UserError
from conceptprune.manifest import Manifest
from conceptprune.masks.mask import PruningMask
from conceptprune.masks.selectors import Evidence, stronger_neurons
from conceptprune.models.source import ModelSettings, ModelSource
from conceptprune.store import Store, parquet_to_table
from conceptprune.units.find import find_commit
from conceptprune.units.plan import ConceptPlan, Plan
from conceptprune.units.units import FusedMaskUnit, MaskUnit

from ..jobs.preparation import Prepared, plan_here
from ..records.evaluation import SUMMARY_KINDS
from ..records.ledger import RunRecord, read_ledger
from ..records.runs import find_run, recorded
from .accuracy import Accuracy, judge_shots, metrics_in
from .recognised import Recognised, seen_in_preview_2
from .rows import Row, cost_of, failures_of, files_of, status_of
from .shots import EMBEDDED, Gallery, Role, Shot, make_strip, pair_shots
from .values import ConceptReport, MaskFacts, ReportData
from .where import Contrast, heat_map

STRIP_LIMITS: dict[Role, int] = {"own": 8, "photo": 3, "retained": 8}
FULL_STRIPS = 50
"""Concepts with full strips; with more concepts the strips get shorter, to bound the page."""
MASK_KINDS = (MaskUnit.kind, FusedMaskUnit.kind)
CACHED = 32
"""Preview tables and statistics kept at hand: concepts share those of what is retained."""


def read_report(store_uri: str, run: str | None, gallery: Gallery = EMBEDDED) -> ReportData:
    """The report of `run`, or of the run that was started last; its images go to `gallery`.

    Raises:
        UserError: there is no such run, or it has no ledger.
        StoreError: an object is missing or damaged.
    """
    store = Store(store_uri)
    record = find_run(store, run)
    rows = read_ledger(store, record.run)
    if not rows:
        raise UserError(
            f"{store_uri}: run {record.run} has no ledger yet: its job has only just started or "
            "was killed; run `conceptprune erase` again, which goes on where it stopped"
        )
    return _Reader(store, record, rows, gallery).report()


def only_evaluated(store: Store) -> bool:
    """Whether the store has finished evaluations or attacks, and no run of `erase`."""
    erased = any(recorded(store, name) for name in store.runs())
    return not erased and any(store.committed(kind) for kind in SUMMARY_KINDS)


def evaluation_rows(store: Store) -> list[Row]:
    """The ledgers of the runs that are no run of `erase`; what two of them share stands once."""
    others = [name for name in store.runs() if not recorded(store, name)]
    rows = {row["key"]: row for name in others for row in read_ledger(store, name)}
    return list(rows.values())


def _manifest(record: RunRecord) -> Manifest:
    # The record leaves the model out, whose folder is a matter of the machine that ran the job.
    model = {"folder": "not recorded"}
    try:
        return Manifest.model_validate({**record.manifest, "model": model})
    except ValidationError as error:
        raise UserError(
            f"run {record.run} was recorded by another version of conceptprune: {error}"
        ) from error


def _plan(store: Store, record: RunRecord, manifest: Manifest) -> Plan:
    """The run's plan, for prompts and statistics: mask keys depend on library versions too."""
    model = ModelSettings(
        source=ModelSource(label=record.model_label),
        identity=record.model_identity,
        pipeline=record.pipeline,
        dtype=manifest.collection.dtype,
        device=manifest.collection.device,
        scheduler=manifest.collection.scheduler,
        resolution=manifest.collection.resolution,
        language_model=record.language_model,
    )
    prepared = Prepared(manifest=manifest, model=model, denoiser_weights=record.denoiser_weights)
    return plan_here(prepared, store)


def judged_masks(store: Store, record: RunRecord) -> Callable[[PruningMask], Accuracy | None]:
    """What the pictures of a run say of each of its masks; None of one that it drew none with."""
    rows = read_ledger(store, record.run)
    if not any(row["kind"] == "preview" for row in rows):
        return lambda _: None
    return _Reader(store, record, rows, EMBEDDED).accuracy_of


class _Reader:
    """Reads one run's results out of the store, concept by concept."""

    def __init__(
        self, store: Store, record: RunRecord, rows: Sequence[Row], gallery: Gallery
    ) -> None:
        self.store = store
        self.record = record
        self.rows = rows
        self.gallery = gallery
        self.untouched: dict[tuple[Role, str, int], Shot] = {}
        self.rows_of: defaultdict[str, list[Row]] = defaultdict(list)
        for row in rows:
            for name in row["concepts"]:
                self.rows_of[name].append(row)
        self.manifest = _manifest(record)
        self.plan = _plan(store, record, self.manifest)
        self.bases = {pair.base.text for plan in self.plan.concepts for pair in plan.pairs}
        self.recognised = Recognised(store, rows)
        self.preview_rows = lru_cache(CACHED)(self._preview_rows)
        self.statistics = lru_cache(CACHED)(self._statistics)

    def report(self) -> ReportData:
        # In plan order: each concept's mask, in the manifest's order, then the fused one.
        masks = [row for row in self.rows if row["kind"] in MASK_KINDS]
        plans = self.plan.concepts
        fused = masks[len(plans)] if len(masks) > len(plans) else None
        provenance: Mapping[str, Any] = {}
        concepts = []
        for plan, row in zip(plans, masks, strict=False):
            mask = self.mask(row)
            provenance = provenance or (mask.provenance if mask else {})
            concepts.append(self.concept(plan, row, mask))
        untouched = list(self.untouched.values())
        finished = [row["finished"] for row in self.rows if row["finished"]]
        return ReportData(
            run=self.record.run,
            model=self.record.model_label,
            started=datetime.fromtimestamp(self.record.started, UTC),
            finished=max(finished, default=None),
            manifest=self.manifest,
            calls=self.manifest.pruning.tau or self.manifest.collection.tau,
            concepts=tuple(concepts),
            failures=failures_of([row for row in self.rows if not row["concepts"]]),
            fuses=fused is not None,
            fused=self.mask_facts(fused) if fused else None,
            fused_accuracy=self.fused_accuracy(fused) if fused else None,
            untouched=judge_shots(untouched, kind=plans[0].concept.kind),
            scorers=tuple(dict.fromkeys(metric.scorer for metric in metrics_in(untouched))),
            cost=cost_of(self.rows, {}),
            provenance=provenance,
        )

    def concept(self, plan: ConceptPlan, mask_row: Row, mask: PruningMask | None) -> ConceptReport:
        rows = self.rows_of[plan.concept.name]
        shots = self.shots([plan], mask_row["key"], rows)
        for shot in shots:
            if shot.before:
                before = replace(shot.before, png=b"")
                at = (shot.role, shot.prompt, shot.seed)
                self.untouched[at] = replace(shot, before=before, after=None)
        shorter = 1 if self.gallery.whole else FULL_STRIPS / len(self.plan.concepts)
        strips = (
            make_strip(
                shots, role, limit=max(1, int(limit * min(1, shorter))), gallery=self.gallery
            )
            for role, limit in STRIP_LIMITS.items()
        )
        return ConceptReport(
            name=plan.concept.name,
            kind=plan.concept.kind,
            status=status_of(rows),
            failures=failures_of(rows),
            cost=cost_of(rows, {row["key"]: 1 / len(row["concepts"]) for row in rows}),
            mask=self.mask_facts(mask_row),
            checkpoints=tuple(
                (files_of(row["objects"]), row["bytes"])
                for row in rows
                if row["kind"] == "checkpoint" and row["mask"] == mask_row["key"] and row["objects"]
            ),
            strips=tuple(strip for strip in strips if strip),
            accuracy=judge_shots(shots, kind=plan.concept.kind),
            where=heat_map(mask, self.contrast(plan.mask)) if mask else None,
        )

    def accuracy_of(self, mask: PruningMask) -> Accuracy | None:
        """What the run's pictures say of one of its masks; None where there are none."""
        for row in self.rows:
            # A fused mask is no concept's own.
            if row["kind"] not in MASK_KINDS or row["concepts"] not in ([], list(mask.concepts)):
                continue
            commit = find_commit(self.store, row["kind"], row["key"])
            if commit is not None and commit.objects["mask"].digest == mask.digest:
                chosen = [plan for plan in self.plan.concepts if plan.concept.name in mask.concepts]
                rows = self.rows_about(mask.concepts) if row["concepts"] else self.rows
                return judge_shots(
                    self.shots(chosen, row["key"], rows), kind=chosen[0].concept.kind
                )
        return None

    def rows_about(self, concepts: Iterable[str]) -> list[Row]:
        return [row for row in self.rows if set(concepts) & set(row["concepts"])]

    def fused_accuracy(self, mask_row: Row) -> Accuracy | None:
        plans = self.plan.concepts
        return judge_shots(
            self.shots(plans, mask_row["key"], self.rows), kind=plans[0].concept.kind
        )

    def shots(self, plans: Sequence[ConceptPlan], mask_key: str, rows: Sequence[Row]) -> list[Shot]:
        previews = [row for row in rows if row["kind"] == "preview"]
        keys_before = [row["key"] for row in previews if row["mask"] is None]
        keys_after = [row["key"] for row in previews if row["mask"] == mask_key]
        pairs = [pair for plan in plans for pair in plan.pairs]
        return pair_shots(
            [image for key in keys_before for image in self.preview_rows(key)],
            [image for key in keys_after for image in self.preview_rows(key)],
            targets={pair.target.text for pair in pairs},
            bases={pair.base.text for pair in pairs},
        )

    def mask(self, row: Row) -> PruningMask | None:
        commit = find_commit(self.store, row["kind"], row["key"]) if row["objects"] else None
        if commit is None:
            return None
        return PruningMask.from_bytes(self.store.load(commit, "mask"))

    def mask_facts(self, row: Row) -> MaskFacts | None:
        commit = find_commit(self.store, row["kind"], row["key"]) if row["objects"] else None
        if commit is None:
            return None
        ref = commit.objects["mask"]
        return MaskFacts(
            entries=row["entries"],
            share_of_site=row["entries"] / row["site_weights"],
            share_of_model=row["entries"] / self.record.denoiser_weights,
            digest=ref.digest,
            path=ref.path,
            size=ref.size,
        )

    def contrast(self, unit: MaskUnit) -> Contrast | None:
        keys = (unit.target, unit.base, *unit.retained)
        target, base, *retained = (self.statistics(key) for key in keys)
        kept = [side for side in retained if side]
        if target is None or base is None or len(kept) < len(retained):
            return None
        evidence = Evidence(target=target, base=base, retained=kept, rule=unit.rule)
        return Contrast(
            timesteps=target.timesteps[: unit.selection.tau],
            stronger={
                name: stronger_neurons(unit.selector, name, evidence) for name in target.layers
            },
        )

    def _statistics(self, key: str) -> Statistics | None:
        commit = self.store.find("statistics", key)
        if commit is None:
            return None
        return Statistics.from_arrow(parquet_to_table(self.store.load(commit, "statistics")))

    def _preview_rows(self, key: str) -> list[dict[str, Any]]:
        commit = self.store.find("preview", key)
        if commit is None:
            return []
        rows = parquet_to_table(self.store.load(commit, "preview")).to_pylist()
        if rows and "seen_look" in rows[0]:
            return [{**row, "seen": seen_in_preview_2(row, self.bases)} for row in rows]
        seen = self.recognised.of(key)
        return [{**row, "seen": seen.get((row["prompt"], row["seed"]), ())} for row in rows]
