"""Selectors, fusions and rewordings on a real store, unit by unit: a manifest gets what it asks."""

from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path

import pytest
import torch
from safetensors.torch import load

from conceptprune.checkpoints.delta_reader import read_delta
from conceptprune.edits.projections import edited, prompt_projections
from conceptprune.edits.reword import concept_shift, prompt_moments, reword_map, vocabulary_moments
from conceptprune.manifest import Reword
from conceptprune.models.base import DiffusionModel
from conceptprune.models.weights import known_as, read_weights
from conceptprune.prompts.pairs import base_template, prompt_pairs
from conceptprune.prompts.vocabulary import words_of
from conceptprune.store import Store, parquet_to_table
from conceptprune.units.plan import Plan
from conceptprune.units.prompts_units import prompts_units
from conceptprune.units.results import read_mask
from conceptprune.units.unit import Unit
from conceptprune.units.units import PreviewUnit
from pipelines.jobs.preparation import Prepared, plan_here, prepare
from pipelines.scheduling.graph import committed_in, units_to_do
from tests.pipelines.conftest import worker_of, write_manifest

pytestmark = pytest.mark.slow


def test_a_run_with_a_budget_then_with_another_selector_reuses_what_was_collected(
    tmp_path: Path, tiny_folder: Path
) -> None:
    concepts = [{"name": name, "kind": "style"} for name in ("Ada Bell", "Cy Dow")]
    retain = [{"name": "Gil Hart", "kind": "style"}]
    store = Store(str(tmp_path / "store"))
    for pruning in (
        {"selector": "conceptprune", "sparsity": 0.02},
        {"selector": "fia"},
        {"selector": "fia", "r2": 0.05},
    ):
        manifest = write_manifest(
            tmp_path / "m.yaml",
            tiny_folder,
            concepts=concepts,
            retain=retain,
            pruning=pruning,
            outputs={"fuse": {"how": "budget", "fraction": 0.004}},
        )
        prepared = prepare(manifest)
        plan = plan_here(prepared)
        worker = worker_of(prepared, store)
        for unit in (*prompts_units(prepared.manifest), *units_to_do(plan, committed_in(store))):
            worker.run(unit)
        assert plan.combined
        fused = read_mask(store, plan.combined.key)
        assert 0 < fused.num_entries <= int(0.004 * fused.num_weights)
        assert fused.concepts == ("Ada Bell", "Cy Dow")
        own = [read_mask(store, concept.mask.key) for concept in plan.concepts]
        assert all(mask.provenance["selector"] == pruning["selector"] for mask in own)
    # Three targets and the base they share, whatever selected from them.
    assert len(store.committed("statistics")) == 4


@pytest.fixture(scope="module")
def rewording(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    """A manifest that rewords two concepts and retains a third."""
    return prepare(
        write_manifest(
            tmp_path_factory.mktemp("rewording") / "m.yaml",
            tiny_folder,
            method="reword",
            concepts=[
                {"name": "Ada Bell", "kind": "style"},
                {"name": "a red door", "kind": "object"},
            ],
            retain=[{"name": "Gil Hart", "kind": "style"}],
            outputs={
                "pipelines": True,
                "preview": {"seeds": [0], "steps": 2, "prompts_per_concept": 1},
            },
        )
    )


def combined_units(plan: Plan) -> dict[str, Unit]:
    """What the rewording, its checkpoint and its images need: none of the concepts' own masks."""
    found: dict[str, Unit] = {}
    base = [unit for unit in plan.of(PreviewUnit).values() if unit.mask is None]
    ends = [plan.combined, *plan.combined_checkpoints, *plan.combined_previews, *base]
    pending = [unit for unit in ends if unit]
    while pending:
        unit = pending.pop()
        found[unit.key] = unit
        pending += [plan.by_key[key] for _, key in unit.needs]
    return found


def in_turn(units: Mapping[str, Unit], take: Callable[[Collection[str]], str]) -> Iterator[Unit]:
    """Each unit after what it needs, otherwise as `take` chooses of the keys that are ready."""
    left = dict(units)
    while left:
        ready = sorted(
            key for key, unit in left.items() if not {k for _, k in unit.needs} & {*left}
        )
        yield left.pop(take(ready))


def test_a_rewording_is_the_librarys_whatever_the_order_of_units_and_number_of_workers(
    rewording: Prepared, tmp_path: Path
) -> None:
    plan = plan_here(rewording)
    units = combined_units(plan)
    assert plan.combined
    kinds = ["shift"] * 2 + ["moments"] * 4 + ["vocabulary", "reword", "checkpoint"]
    kinds += ["preview"] * 10
    assert sorted(unit.kind for unit in units.values()) == sorted(kinds)
    found = set()
    for take, num_workers in ((min, 1), (max, 2)):
        store = Store(str(tmp_path / f"store-{num_workers}"))
        workers = [worker_of(rewording, store) for _ in range(num_workers)]
        for index, unit in enumerate(in_turn(units, take)):
            workers[index % num_workers].run(unit)
        found.add(
            tuple(
                (key, role, ref.digest)
                for key in sorted(units)
                for role, ref in sorted(store.get(units[key].kind, key).objects.items())
            )
        )
    # Not the delta alone: the sums, the pipeline's files and the images, too.
    assert len(found) == 1

    header, tensors = read_delta(store.load(store.get("reword", plan.combined.key), "delta"))
    assert header
    assert header.concepts == ("Ada Bell", "a red door")
    assert header.provenance["retained"] == ["Gil Hart"]
    model = workers[0].denoiser
    wanted = directly(plan, rewording, model)
    assert tensors.keys() == wanted.keys()
    assert all(torch.equal(tensors[name], wanted[name]) for name in wanted)

    # The pipeline has these very tensors, and every other as it was.
    (whole,) = plan.combined_checkpoints
    commit = store.get("checkpoint", whole.key)
    file = "unet/diffusion_pytorch_model.safetensors"
    written = load(store.load(commit, file))
    before = load((rewording.model.folder() / file).read_bytes())
    names = {known_as(name, written): name for name in tensors}
    for key, tensor in written.items():
        assert torch.equal(tensor, tensors[names[key]] if key in names else before[key]), key
    assert any(not torch.equal(written[str(key)], before[str(key)]) for key in names)
    assert len(prompt_projections(model)) == len(tensors)

    def images(*, reworded: bool) -> dict[tuple[str, int], bytes]:
        tables = [
            store.load(store.get("preview", key), "preview")
            for key, unit in units.items()
            if isinstance(unit, PreviewUnit) and (unit.mask is not None) == reworded
        ]
        rows = [row for data in tables for row in parquet_to_table(data).to_pylist()]
        return {(row["prompt"], row["seed"]): row["png"] for row in rows}

    after, untouched = images(reworded=True), images(reworded=False)
    assert after.keys() == untouched.keys()
    assert all(after[at] != untouched[at] for at in after if "Ada Bell" in at[0])


def directly(plan: Plan, prepared: Prepared, model: DiffusionModel) -> Mapping[str, torch.Tensor]:
    """The edited tensors as the library's functions make them, without a store or units."""
    pairs = {each.concept.name: each.pairs for each in plan.concepts}
    (other,) = prepared.manifest.retain
    retained = [pair.target.text for pair in prompt_pairs(other, seed=0)]
    bases = {tuple(dict.fromkeys(pair.base.text for pair in of)): None for of in pairs.values()}
    change = reword_map(
        [
            concept_shift(model, name, [(pair.base.text, pair.target.text) for pair in of])
            for name, of in pairs.items()
        ],
        [prompt_moments(model, retained)],
        [prompt_moments(model, texts) for texts in bases],
        prompt_moments(model, [""]),
        Reword(),
        vocabulary_moments(
            model,
            [base_template(concept) for concept in prepared.manifest.concepts],
            count=Reword().words,
            without=words_of(pairs) | words_of(["in the style of"]),
        ),
    )
    folder = prepared.model.folder() / "unet"
    weights = read_weights(folder, list(prompt_projections(model)))
    return {f"{name}.weight": tensor for name, tensor in edited(weights, change).items()}
