"""A store with real runs of a tiny random model, made without Ray."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from conceptprune.evaluation.preview_worker import ScoringWorker
from conceptprune.evaluation.scorers.base import Facts, ScorerSettings
from conceptprune.evaluation.scorers.studio_judge import StudioJudge
from conceptprune.evaluation.scoring import Scorers
from conceptprune.store import Store
from conceptprune.studio.judge import Verdicts
from conceptprune.units.plan import Plan
from conceptprune.units.unit import Unit
from pipelines.jobs.preparation import Prepared, prepare
from pipelines.records.ledger import Made, ledger_rows, made_by, write_ledger
from pipelines.records.run_record import RunRecord
from pipelines.scheduling.graph import Graph
from pipelines.scheduling.loop import Result, needs
from tests.pipelines.conftest import whole_plan
from tests.support.browser import Browser, chromium

HOSTILE = "<script>document.title='owned'</script>"
FAILING = "imra dovel"
ERROR = "NumericalError: NaN in <layer> down_blocks.0 at call 2"

JUDGED = f"""
version: 1
model: {{folder: MODEL}}
fillers: {{style: [cat, dog, car]}}
concepts:
  - {{name: vorla brint, kind: style}}
  - {{name: "{HOSTILE}", kind: style}}
  - {{name: {FAILING}, kind: style}}
retain:
  - {{name: kesto malu, kind: style}}
  - {{name: vorla brint, kind: style}}
collection: {{steps: 4, tau: 3, dtype: float32, device: cpu}}
pruning: {{sparsity: 0.05, base: plain+retained-mean}}
outputs:
  deltas: true
  fuse: union
  preview: {{seeds: [5, 6], steps: 2, prompts_per_concept: 3, retained_prompts: 2, judge: studio}}
"""

FUSED = JUDGED.replace(f"  - {{name: {FAILING}, kind: style}}\n", "")

PLAIN = """
version: 1
model: {folder: MODEL}
fillers: {style: [cat, dog, car]}
concepts:
  - {name: vorla brint, kind: style}
collection: {steps: 4, tau: 3, dtype: float32, device: cpu}
pruning: {sparsity: 0.05}
"""


@dataclass(frozen=True)
class Run:
    store: Store
    plan: Plan


class PixelJudge:
    """Stands in for the studio's judge: an opinion that follows from the pixels alone."""

    def verdicts(self, images: NDArray[np.uint8]) -> Verdicts:
        sums = images.astype(np.int64).sum(axis=(1, 2, 3))
        return Verdicts(thing=sums % 3, artist=sums % 2)


class PixelScorers(Scorers):
    """The studio's scorer around that judge."""

    def loaded(self, settings: ScorerSettings, facts: Facts) -> Any:
        return StudioJudge(PixelJudge())  # type: ignore[arg-type]


class JudgingWorker(ScoringWorker):
    scorers = PixelScorers("cpu")


def run_here(
    prepared: Prepared, store: Store, *, started: float, failing: Callable[[Unit], bool]
) -> Run:
    """What the job does, one unit after the other in this process; chosen units fail.

    Those of another run in the store are reused, and nothing of them is computed again.
    """
    worker = JudgingWorker(store, prepared.model)
    plan = whole_plan(prepared)
    RunRecord(
        run=plan.run,
        manifest=prepared.manifest.model_dump(mode="json", exclude={"model"}),
        model_label=prepared.model.source.label,
        model_identity=prepared.model.identity,
        pipeline=prepared.model.pipeline,
        denoiser_weights=prepared.denoiser_weights,
        started=started,
    ).write(store)
    graph = Graph.of(plan.units())
    results: dict[str, Result] = {}
    reused: dict[str, Made] = {}
    while graph.ready:
        unit = graph.ready.popleft()
        if failing(unit):
            results[unit.key] = Result(unit=unit, status="failed", attempts=3, error=ERROR)
            for blocked in graph.fail(unit):
                results[blocked.key] = Result(
                    unit=blocked, status="blocked", attempts=0, error=needs(unit)
                )
            continue
        reused[unit.key] = made_by(store.find(unit.kind, unit.key) or worker.run(unit))
        graph.finish(unit)
    write_ledger(store, plan.run, ledger_rows(plan, todo=(), results=results, reused=reused))
    return Run(store=store, plan=plan)


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """One browser for all tests of pages."""
    with chromium(tmp_path_factory.mktemp("profile")) as browser:
        yield browser


@pytest.fixture(scope="session")
def runs(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Run]:
    """Runs in one store: a complete one, one with a failed concept, a later one of masks alone."""
    folder = tmp_path_factory.mktemp("runs")
    store = Store(str(folder / "store"))
    texts = {"fused": FUSED, "judged": JUDGED, "plain": PLAIN}
    made = {}
    for index, (name, text) in enumerate(texts.items()):
        manifest = folder / f"{name}.yaml"
        manifest.write_text(text.replace("MODEL", str(tiny_folder)), encoding="utf-8")
        made[name] = run_here(
            prepare(manifest),
            store,
            started=1_700_000_000.0 + index,
            failing=lambda unit: unit.kind == "mask" and getattr(unit, "concept", "") == FAILING,
        )
    return made
