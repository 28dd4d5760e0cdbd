"""Everything a report says, read from the store: no model, no Ray."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, Literal

from pydantic import ValidationError

from conceptprune.errors import UserError
from conceptprune.manifest import Manifest
from conceptprune.mask import PruningMask
from conceptprune.model_source import ModelSource
from conceptprune.plan import ConceptPlan, Plan
from conceptprune.prompts import prompt_pairs
from conceptprune.selectors import Evidence, stronger_neurons
from conceptprune.statistics import Statistics
from conceptprune.store import Store, parquet_to_table
from conceptprune.work import MaskWork, ModelSettings
from pipelines.ledger import RunRecord, read_ledger
from pipelines.preparation import Prepared, plan_here
from pipelines.report.accuracy import Accuracy, judge_shots
from pipelines.report.shots import Role, Shot, Strip, make_strip, pair_shots
from pipelines.report.where import Contrast, HeatMap, heat_map

ROLES: tuple[Role, ...] = ("own", "photo", "retained")
STRIP_LIMITS: dict[Role, int] = {"own": 8, "photo": 3, "retained": 8}
FULL_STRIPS = 50
"""Concepts with full strips; with more concepts the strips get shorter, to bound the page."""
CACHED = 32
"""Preview tables and statistics kept at hand: concepts share those of what is retained."""

Row = Mapping[str, Any]
Status = Literal["done", "failed", "unfinished"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """A unit that could not be done."""

    unit: str
    attempts: int
    error: str


@dataclass(frozen=True, slots=True, kw_only=True)
class MaskFacts:
    """A mask in numbers, and where its file is."""

    entries: int
    share_of_site: float
    share_of_model: float
    digest: str
    path: str
    size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ConceptReport:
    """One concept of the run."""

    name: str
    kind: str
    status: Status
    failures: tuple[Failure, ...]
    seconds: float
    """Worker seconds; a unit that several concepts share counts in equal parts."""
    mask: MaskFacts | None
    checkpoints: tuple[tuple[str, int], ...]
    """(path or number of files, bytes) of each checkpoint made."""
    strips: tuple[Strip, ...]
    accuracy: Accuracy | None
    where: HeatMap | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What the run's results took, whichever job computed them."""

    evaluations: int
    seconds: float
    size: int
    units: Mapping[str, int]
    """Units by status."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportData:
    """A whole report."""

    run: str
    model: str
    started: datetime
    finished: datetime | None
    manifest: Manifest
    calls: int
    """Denoiser calls the masks were selected from."""
    concepts: tuple[ConceptReport, ...]
    failures: tuple[Failure, ...]
    """Units that failed and belong to no one concept."""
    fuses: bool
    """Whether the run asks for one mask of all concepts; `fused` is None where it is not done."""
    fused: MaskFacts | None
    fused_accuracy: Accuracy | None
    cost: Cost
    provenance: Mapping[str, Any]
    """What the first mask records of its making: digests and library versions."""

    def count(self, status: Status) -> int:
        """How many concepts have that status."""
        return sum(concept.status == status for concept in self.concepts)


def read_report(store_uri: str, run: str | None) -> ReportData:
    """The report of `run`, or of the run that was started last.

    Raises:
        UserError: there is no such run, or it has no ledger.
        StoreError: an object is missing or damaged.
    """
    store = Store(store_uri)
    record = _record(store, run)
    rows = read_ledger(store, record.run)
    if not rows:
        raise UserError(
            f"{store_uri}: run {record.run} has no ledger yet: its job has only just started or "
            "was killed; run `conceptprune erase` again, which goes on where it stopped"
        )
    return _Reader(store, record, rows).report()


def _record(store: Store, run: str | None) -> RunRecord:
    runs = store.runs()
    if not runs:
        raise UserError(
            f"{store.uri}: no run here; give the folder or URI that `conceptprune erase --store` "
            "was given"
        )
    if run is not None:
        try:
            return RunRecord.read(store, run)
        except KeyError:
            raise UserError(
                f"--run {run}: not in {store.uri}, which has {', '.join(runs)}"
            ) from None
    return max((RunRecord.read(store, name) for name in runs), key=lambda record: record.started)


def _manifest(record: RunRecord) -> Manifest:
    # The record leaves the model out, whose folder is a matter of the machine that ran the job.
    model = {"folder": "not recorded"}
    try:
        return Manifest.model_validate({**record.manifest, "model": model})
    except ValidationError as error:
        raise UserError(
            f"run {record.run} was recorded by another version of conceptprune: {error}"
        ) from error


def _plan(record: RunRecord, manifest: Manifest) -> Plan:
    """The run's plan, for prompts and statistics: mask keys depend on library versions too."""
    model = ModelSettings(
        source=ModelSource(label=record.model_label),
        identity=record.model_identity,
        pipeline=record.pipeline,
        dtype=manifest.collection.dtype,
        device=manifest.collection.device,
        scheduler=manifest.collection.scheduler,
        resolution=manifest.collection.resolution,
    )
    return plan_here(
        Prepared(manifest=manifest, model=model, denoiser_weights=record.denoiser_weights)
    )


def judged_masks(store: Store, record: RunRecord) -> Callable[[PruningMask], Accuracy | None]:
    """What the pictures of a run say of each of its masks; None of one that it drew none with."""
    rows = read_ledger(store, record.run)
    if not any(row["kind"] == "preview" for row in rows):
        return lambda _: None
    return _Reader(store, record, rows).accuracy_of


class _Reader:
    """Reads one run's results out of the store, concept by concept."""

    def __init__(self, store: Store, record: RunRecord, rows: Sequence[Row]) -> None:
        self.store = store
        self.record = record
        self.rows = rows
        self.manifest = _manifest(record)
        self.plan = _plan(record, self.manifest)
        self.preview_rows = lru_cache(CACHED)(self._preview_rows)
        self.statistics = lru_cache(CACHED)(self._statistics)

    def report(self) -> ReportData:
        # In plan order: each concept's mask, in the manifest's order, then the fused one.
        masks = [row for row in self.rows if row["kind"] == "mask"]
        plans = self.plan.concepts
        fused = masks[len(plans)] if len(masks) > len(plans) else None
        provenance: Mapping[str, Any] = {}
        concepts = []
        for plan, row in zip(plans, masks, strict=False):
            mask = self.mask(row)
            provenance = provenance or (mask.provenance if mask else {})
            concepts.append(self.concept(plan, row, mask))
        finished = [row["finished"] for row in self.rows if row["finished"]]
        return ReportData(
            run=self.record.run,
            model=self.record.model_label,
            started=datetime.fromtimestamp(self.record.started, UTC),
            finished=max(finished, default=None),
            manifest=self.manifest,
            calls=self.manifest.pruning.tau or self.manifest.collection.tau,
            concepts=tuple(concepts),
            failures=_failures([row for row in self.rows if not row["concepts"]]),
            fuses=fused is not None,
            fused=self.mask_facts(fused) if fused else None,
            fused_accuracy=self.fused_accuracy(fused) if fused else None,
            cost=self.cost(),
            provenance=provenance,
        )

    def cost(self) -> Cost:
        done = [row for row in self.rows if row["seconds"] is not None]
        return Cost(
            evaluations=sum(row["evaluations"] for row in done),
            seconds=sum(row["seconds"] for row in done),
            size=sum(row["bytes"] for row in done),
            units=Counter(row["status"] for row in self.rows),
        )

    def concept(self, plan: ConceptPlan, mask_row: Row, mask: PruningMask | None) -> ConceptReport:
        rows = self.rows_of([plan.concept.name])
        shots = self.shots([plan], mask_row["key"], rows)
        limits = {
            role: max(1, min(limit, limit * FULL_STRIPS // len(self.plan.concepts)))
            for role, limit in STRIP_LIMITS.items()
        }
        strips = (make_strip(shots, role, limit=limits[role]) for role in ROLES)
        return ConceptReport(
            name=plan.concept.name,
            kind=plan.concept.kind,
            status=_status(rows),
            failures=_failures(rows),
            seconds=sum((row["seconds"] or 0.0) / len(row["concepts"]) for row in rows),
            mask=self.mask_facts(mask_row),
            checkpoints=tuple(
                (_files(row["objects"]), row["bytes"])
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
            if row["kind"] != "mask" or set(row["concepts"]) != set(mask.concepts):
                continue
            commit = self.store.find("mask", row["key"])
            if commit is not None and commit.objects["mask"].digest == mask.digest:
                chosen = [plan for plan in self.plan.concepts if plan.concept.name in mask.concepts]
                shots = self.shots(chosen, row["key"], self.rows_of(mask.concepts))
                return judge_shots(shots, kind=chosen[0].concept.kind)
        return None

    def rows_of(self, concepts: Iterable[str]) -> list[Row]:
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
        pairs = [
            pair
            for plan in plans
            for pair in prompt_pairs(plan.concept, seed=self.manifest.collection.seed)
        ]
        return pair_shots(
            [image for key in keys_before for image in self.preview_rows(key)],
            [image for key in keys_after for image in self.preview_rows(key)],
            targets={pair.target.text for pair in pairs},
            bases={pair.base.text for pair in pairs},
        )

    def mask(self, row: Row) -> PruningMask | None:
        commit = self.store.find("mask", row["key"]) if row["objects"] else None
        if commit is None:
            return None
        return PruningMask.from_bytes(self.store.load(commit, "mask"))

    def mask_facts(self, row: Row) -> MaskFacts | None:
        commit = self.store.find("mask", row["key"]) if row["objects"] else None
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

    def contrast(self, work: MaskWork) -> Contrast | None:
        keys = (work.target, work.base, *work.retained)
        target, base, *retained = (self.statistics(key) for key in keys)
        kept = [side for side in retained if side]
        if target is None or base is None or len(kept) < len(retained):
            return None
        evidence = Evidence(target=target, base=base, retained=kept, rule=work.rule)
        return Contrast(
            timesteps=target.timesteps[: work.selection.tau],
            stronger={
                name: stronger_neurons(work.selector, name, evidence) for name in target.layers
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
        rows: list[dict[str, Any]]
        rows = parquet_to_table(self.store.load(commit, "preview")).to_pylist()
        return rows


def _status(rows: Sequence[Row]) -> Status:
    statuses = {row["status"] for row in rows}
    if statuses & {"failed", "blocked"}:
        return "failed"
    return "unfinished" if "pending" in statuses else "done"


def _failures(rows: Iterable[Row]) -> tuple[Failure, ...]:
    return tuple(
        Failure(
            unit=f"{row['kind']} {row['key'][:12]} ({row['detail']})",
            attempts=row["attempts"],
            error=row["error"] or "",
        )
        for row in rows
        if row["status"] == "failed"
    )


def _files(paths: Sequence[str]) -> str:
    return paths[0] if len(paths) == 1 else f"{len(paths)} files"
