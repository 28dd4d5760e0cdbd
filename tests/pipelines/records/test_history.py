"""When a concept was first and last erased is on record over reruns and other lists of names."""

import json
import time
from dataclasses import replace
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from pipelines.commands.gc import collect_garbage
from pipelines.commands.status import show_status
from pipelines.commands.status_json import status_document
from pipelines.jobs.erase import erase
from pipelines.jobs.preparation import prepare
from pipelines.records.concepts import ConceptState, ConceptStates
from pipelines.records.run_record import RUN_FILE, RunRecord
from pipelines.report.data import read_report
from pipelines.report.render import render
from tests.pipelines.conftest import CONCEPTS, TinyStore, copied, write_manifest
from tests.support.units_here import units_here

ADA, CY, LAST = CONCEPTS


class Nights:
    """Nights on one store, whose first run has everything but one mask."""

    def __init__(self, tiny_store: TinyStore, folder: Path) -> None:
        self.folder = folder
        self.model = tiny_store.model
        self.manifest = tiny_store.manifest
        self.first = tiny_store.plan.run
        self.store = copied(tiny_store, folder / "store")
        (self.mask,) = (
            each.mask.key for each in tiny_store.plan.concepts if each.concept.name == CY
        )
        self.store.remove([f"commits/mask/{self.mask}.json"])

    def erase(self, manifest: Path | None = None) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("pipelines.jobs.erase.unit_runner", units_here())
            assert erase(manifest or self.manifest, self.store.uri, Console(file=StringIO())) == 0

    def listing(self, *names: str, sparsity: float = 0.02) -> Path:
        """A manifest with another list of names."""
        return write_manifest(
            self.folder / "another.yaml",
            self.model,
            concepts=[{"name": name, "kind": "style"} for name in names],
            pruning={"sparsity": sparsity},
            outputs={},
        )

    def run_of(self, manifest: Path) -> str:
        (run,) = {
            run
            for run in self.store.runs()
            if run != self.first
            and [each.name for each in RunRecord.read(self.store, run).asked.concepts]
            == [each.name for each in prepare(manifest).manifest.concepts]
        }
        return run

    def state(self, run: str, name: str = CY) -> ConceptState:
        states = ConceptStates.read(self.store, run)
        assert states is not None
        (found,) = (state for state in states.states if state.name == name)
        return found


@pytest.fixture
def nights(tiny_store: TinyStore, tmp_path: Path) -> Nights:
    return Nights(tiny_store, tmp_path)


def test_a_concept_of_another_list_was_first_erased_when_an_earlier_run_did(nights: Nights) -> None:
    nights.erase()
    made = nights.state(nights.first).first
    assert made is not None
    assert (made.run, made.mask) == (nights.first, nights.mask)
    assert made.job is not None
    # The same mask: nothing is made.
    another = nights.listing(CY)
    nights.erase(another)
    state = nights.state(nights.run_of(another))
    assert state.first == state.last == made


def test_another_run_that_erases_it_again_is_the_last_and_never_the_first(nights: Nights) -> None:
    nights.erase()
    first = nights.state(nights.first).first
    another = nights.listing(CY, "Eve New", sparsity=0.05)
    nights.erase(another)
    run = nights.run_of(another)
    state = nights.state(run)
    assert state.first == first
    assert state.last is not None
    assert state.last.run == run
    new = nights.state(run, "Eve New")
    assert new.first == new.last
    assert new.first is not None
    assert new.first.run == run
    # A rerun of the first that does nothing knows of it, too.
    nights.erase()
    again = nights.state(nights.first)
    assert (again.first, again.last) == (first, state.last)


def test_it_is_shown_by_status_and_page(nights: Nights) -> None:
    nights.erase()
    another = nights.listing(CY, "Eve New", sparsity=0.05)
    nights.erase(another)
    run = nights.run_of(another)
    sink = StringIO()
    show_status(nights.store.uri, Console(file=sink, width=200))
    assert f"; first by another run: {CY} (each: --json)" in sink.getvalue()
    document = status_document(nights.store.uri)
    (found,) = (each for each in document["runs"] if each["run"] == run)
    each = {each["name"]: each for each in found["concepts"]["effect"]["each"]}
    assert (each[CY]["first"]["run"], each[CY]["last"]["run"]) == (nights.first, run)
    page = render(read_report(nights.store.uri, run))
    assert page.count("First erased ") == 1
    shown = page.partition("First erased ")[2].partition("</p>")[0]
    assert f" UTC by run <code>{nights.first}</code>, last " in shown
    assert f" UTC by run <code>{run}</code>." in shown


def test_it_outlives_the_run_that_erased_it_first(nights: Nights) -> None:
    nights.erase()
    first = nights.state(nights.first).first
    another = nights.listing(CY, sparsity=0.05)
    nights.erase(another)
    later = time.time() + 3 * 86_400
    collect_garbage(
        nights.store.uri, Console(file=StringIO()), yes=True, forget=[nights.first], now=later
    )
    assert nights.first not in nights.store.runs()
    nights.erase(another)
    assert nights.state(nights.run_of(another)).first == first


def test_runs_on_another_model_do_not_count(nights: Nights) -> None:
    nights.erase()
    data = nights.store.read_run_file(nights.first, RUN_FILE)
    assert data is not None
    content = json.loads(data)
    content["model"]["identity"] = "0" * 64
    nights.store.write_run_file(nights.first, RUN_FILE, json.dumps(content).encode())
    another = nights.listing(CY, sparsity=0.05)
    nights.erase(another)
    run = nights.run_of(another)
    first = nights.state(run).first
    assert first is not None
    assert first.run == run


def test_a_mask_of_a_job_that_was_killed_is_known_to_be_that_jobs(nights: Nights) -> None:
    nights.erase()
    made = nights.state(nights.first).first
    assert made is not None
    # As a killed job leaves it: the mask is there, and nothing says whose it is.
    nights.store.remove([f"runs/run={nights.first}/concepts.json"])
    nights.erase()
    assert nights.state(nights.first).first == made
    # A store of a version that did not record it says that it is not known.
    nights.store.remove([f"runs/run={nights.first}/concepts.json"])
    path = Path(nights.store.uri, f"commits/mask/{nights.mask}.json")
    content = json.loads(path.read_bytes())
    del content["provenance"]["job"]
    path.write_text(json.dumps(content))
    nights.erase()
    assert nights.state(nights.first).first == replace(made, run=None, job=None)


def test_states_of_an_earlier_version_are_of_their_own_run(nights: Nights) -> None:
    of = {"at": 1.7e9, "job": "a", "mask": "m"}
    content = {"concepts": [{"name": CY, "has_mask": True, "first": of, "last": of}]}
    nights.store.write_run_file("b" * 64, "concepts.json", json.dumps(content).encode())
    first = nights.state("b" * 64).first
    assert first is not None
    assert first.run == "b" * 64
