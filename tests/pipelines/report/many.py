"""A run of many concepts, without a model: the library's records around images made up here."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from conceptprune.digest import digest_json
from conceptprune.evaluation.scorers.base import Case, Reading
from conceptprune.evaluation.scorers.studio_judge import StudioJudge
from conceptprune.evaluation.summarise import scorer_settings
from conceptprune.evaluation.summary import OBJECT, SCHEMA, SORTED_BY
from conceptprune.evaluation.tables import scores_table
from conceptprune.evaluation.units import EvaluationUnit, PreviewScoresUnit
from conceptprune.masks.layer_mask import LayerMask
from conceptprune.masks.mask import PruningMask
from conceptprune.prompts.pairs import prompt_pairs
from conceptprune.prompts.table import prompts_table
from conceptprune.store import Commit, Store, table_to_parquet
from conceptprune.studio.judge import Verdicts
from conceptprune.studio.names import ARTISTS, LOOKS, THINGS
from conceptprune.units.plan import Plan
from conceptprune.units.preview import preview_table
from conceptprune.units.unit import Unit
from conceptprune.units.units import MaskUnit, PreviewUnit, PromptsUnit
from conceptprune.versions import versions
from pipelines.jobs.preparation import Prepared, prepare
from pipelines.records.ledger import ledger_rows, made_by, write_ledger
from pipelines.records.run_record import RunRecord
from tests.pipelines.conftest import whole_plan

MANIFEST = """
version: 1
model: {{builtin: studio}}
fillers: {{style: [cat, dog], object: [garden, road]}}
concepts:
{concepts}
retain:
  - {{name: zofa tench, kind: style}}
collection: {{steps: 4, tau: 3, dtype: float32, device: cpu}}
outputs:
  preview: {{seeds: [5, 6], steps: 2, prompts_per_concept: 2, retained_prompts: 1, judge: studio}}
"""
PIXELS = 64
LAYERS = {f"up_blocks.{index}.attentions.0.ff.net.2": (64, 256) for index in range(3)}


def names(count: int) -> list[str]:
    """Numbered variants of the artists that the judge knows."""
    return [f"{ARTISTS[index % 10].name} {index:03}" for index in range(count)]


def store_of_many(folder: Path, count: int) -> tuple[Store, Plan]:
    """A store below `folder` with one finished run of `count` concepts."""
    manifest = folder / "many.yaml"
    kinds = ("style", "style", "object")
    concepts = "\n".join(
        f"  - {{name: {name}, kind: {kinds[index % 3]}}}" for index, name in enumerate(names(count))
    )
    manifest.write_text(MANIFEST.format(concepts=concepts), encoding="utf-8")
    prepared = prepare(manifest)
    plan = whole_plan(prepared)
    store = Store(str(folder / "store"))
    _record(prepared, plan).write(store)
    rng = np.random.default_rng(0)
    made = {}
    for unit in plan.units():
        if isinstance(unit, PromptsUnit | MaskUnit | PreviewUnit | PreviewScoresUnit):
            commit = _commit(store, plan, unit, rng)
            store.commit(commit)
            made[unit.key] = made_by(commit)
    rows = ledger_rows(plan, todo=(), results={}, reused=made)
    write_ledger(store, plan.run, rows)
    return store, plan


def _record(prepared: Prepared, plan: Plan) -> RunRecord:
    return RunRecord(
        run=plan.run,
        manifest=prepared.manifest.model_dump(mode="json", exclude={"model"}),
        model_label=prepared.model.source.label,
        model_identity=prepared.model.identity,
        pipeline=prepared.model.pipeline,
        denoiser_weights=prepared.denoiser_weights,
        started=1_700_000_000.0,
    )


def _commit(store: Store, plan: Plan, unit: Unit, rng: np.random.Generator) -> Commit:
    facts: dict[str, object] = {"seconds": float(rng.uniform(1, 90)), "finished": 1_700_000_100.0}
    if isinstance(unit, MaskUnit):
        mask = _mask(plan, unit, rng)
        facts |= {"entries": mask.num_entries, "site_weights": mask.num_weights}
        role, data, suffix = "mask", mask.to_bytes(), "safetensors"
    elif isinstance(unit, PromptsUnit):
        pairs = {each.name: prompt_pairs(each, seed=unit.seed) for each in unit.concepts}
        kinds = {each.name: each.kind for each in unit.concepts}
        role, data, suffix = "prompts", table_to_parquet(prompts_table(pairs, kinds)), "parquet"
    elif isinstance(unit, PreviewScoresUnit):
        forgotten = plan.of(PreviewUnit)[unit.preview].mask is not None
        table = scores_table(unit.cases, _readings(unit.cases, rng, forgotten=forgotten))
        settings = scorer_settings(unit.scorer, unit.facts)
        facts |= {"preview": unit.preview, "title": unit.scorer.title, "settings": settings}
        role, data, suffix = "scores", table_to_parquet(table), "parquet"
    else:
        assert isinstance(unit, PreviewUnit)
        role, data, suffix = "preview", table_to_parquet(_images(unit, rng)), "parquet"
    ref = store.put(data, kind=role, model=plan.model.identity, suffix=suffix)
    return Commit(kind=unit.kind, key=unit.key, objects={role: ref}, provenance=facts)


def _mask(plan: Plan, unit: MaskUnit, rng: np.random.Generator) -> PruningMask:
    share = rng.uniform(0.002, 0.02)
    layers = {
        name: LayerMask(
            shape=shape,
            entries=np.flatnonzero(rng.random(shape[0] * shape[1]) < share),
            weight_digest="0" * 64,
        )
        for name, shape in LAYERS.items()
    }
    provenance = {"model_digest": plan.model.identity, "versions": versions()}
    return PruningMask(
        concepts=(unit.concept,), component="unet", layers=layers, provenance=provenance
    )


def _images(unit: PreviewUnit, rng: np.random.Generator) -> pa.Table:
    """A ball a prompt, in an artist's colours before and in others after."""
    number = len(unit.prompts)
    y, x = np.mgrid[:PIXELS, :PIXELS] - PIXELS / 2
    radius = rng.uniform(12, 28, number)[:, None, None]
    ball = ((x**2 + y**2)[None] < radius**2)[..., None]
    colours = rng.integers(40, 255, (2, number, 1, 1, 3))
    images = np.where(ball, colours[0], colours[1]).astype(np.uint8)
    return preview_table(unit.prompts, images)


def _readings(cases: Sequence[Case], rng: np.random.Generator, *, forgotten: bool) -> list[Reading]:
    """An artist's images are recognised before, and seldom after."""
    number = len(cases)
    looks = [
        next((LOOKS.index(each.look) for each in ARTISTS if each.name in case.text), None)
        for case in cases
    ]
    photo = LOOKS.index("photo")
    artist = [
        photo if look is None or (forgotten and rng.random() < 0.85) else look for look in looks
    ]

    class Judge:
        def verdicts(self, _: object) -> Verdicts:
            thing = rng.integers(0, len(THINGS), number)
            return Verdicts(thing=thing, artist=np.array(artist))

    blank = [np.zeros((1, 1, 3), np.uint8)] * number
    return StudioJudge(Judge()).score(blank, cases, None)  # type: ignore[arg-type]


def score(**changes: object) -> dict[str, object]:
    """A row of a summary."""
    row: dict[str, object] = {
        "suite": "small",
        "checkpoint": "base",
        "source": "base",
        "digest": "",
        "erased": [],
        "group": "erased",
        "scorer": "studio-judge",
        "metric": "style accuracy",
        "value": 0.5,
        "low": 0.4,
        "high": 0.6,
        "n": 96,
        "better": "higher" if changes.get("group") == "retained" else "lower",
        "settings": '{"scorer":{"scorer":"studio-judge"},"seed":7}',
    }
    return row | changes


def commit_summary(
    store: Store,
    rows: list[dict[str, object]],
    *,
    finished: float = 0.0,
    kind: str = EvaluationUnit.kind,
) -> None:
    """Put a summary into the store as an evaluation does."""
    ordered = sorted(rows, key=lambda row: [str(row[name]) for name in SORTED_BY])
    table = pa.Table.from_pylist(ordered, schema=SCHEMA)
    ref = store.put(table_to_parquet(table), kind="evaluation", model="any", suffix="parquet")
    key = digest_json([ref.digest, finished])
    provenance = {"finished": finished}
    store.commit(Commit(kind=kind, key=key, objects={OBJECT: ref}, provenance=provenance))
