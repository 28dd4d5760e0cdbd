"""`export` writes checkpoints that load, that say what they are, and never half of one."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import partialmethod
from pathlib import Path

import pytest
import torch
import yaml
from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from safetensors.torch import load_file, save_file
from torch import Tensor

import conceptprune
from conceptprune.checkpoints.card import Exported, code_span, load_lines, model_card
from conceptprune.checkpoints.files import whole_component
from conceptprune.checkpoints.single_file import write_single_file
from conceptprune.errors import StoreError, UserError
from conceptprune.masks.mask import PruningMask, union_masks
from conceptprune.models.from_single_file import converted_folder
from conceptprune.models.node_cache import CACHE_VARIABLE
from conceptprune.store import Store
from conceptprune.units.results import read_mask
from conceptprune.units.worker import Worker
from pipelines.commands import export_files
from pipelines.commands.export import export_concepts
from pipelines.console.names import slug
from pipelines.records.reuse import _is_lost
from tests.pipelines.commands.conftest import RunCards
from tests.pipelines.conftest import (
    CONCEPTS,
    HOSTILE_NAME,
    TinyStore,
    copied,
    done,
    record_run,
    whole_plan,
)
from tests.support.sd15_shaped import build_pipeline

ADA, CY, LAST = CONCEPTS

Run = Callable[..., Path]


@pytest.fixture
def run_export(tiny_store: TinyStore, tmp_path: Path) -> Run:
    """`export` of the tiny store; returns the folder written."""

    def run(*concepts: str, form: str, out: Path = tmp_path / "out", **options: object) -> Path:
        store = options.pop("store", tiny_store.uri)
        settings = {"fuse": None, "run": None, "model": tiny_store.model, **options}
        export_concepts(store, list(concepts), out=out, form=form, **settings)  # type: ignore[arg-type]
        return out

    return run


def mask_of(tiny: TinyStore, name: str) -> PruningMask:
    (plan,) = [plan for plan in tiny.plan.concepts if plan.concept.name == name]
    return read_mask(tiny.store, plan.mask.key)


def image(pipe: StableDiffusionPipeline) -> Tensor:
    pipe.set_progress_bar_config(disable=True)
    output = pipe(
        "a cat in the style of Ada Bell",
        num_inference_steps=2,
        generator=torch.Generator().manual_seed(5),
        output_type="np",
    )
    return torch.from_numpy(output.images)


def loaded(folder: Path) -> StableDiffusionPipeline:
    return aligned(StableDiffusionPipeline.from_pretrained(folder))


def aligned(pipe: StableDiffusionPipeline) -> StableDiffusionPipeline:
    # Weights are used where the file lies in memory, at any address, and the CPU's kernels round
    # differently on addresses that are not a multiple of 64.
    for module in (pipe.unet, pipe.text_encoder, pipe.vae):
        for parameter in module.parameters():
            parameter.data = parameter.data.clone()
    return pipe


def only_safetensors(folder: Path) -> Path:
    (path,) = folder.glob("*.safetensors")
    return path


def metadata(folder: Path) -> dict[str, object]:
    content: dict[str, object] = json.loads((folder / "conceptprune.json").read_text())
    return content


def test_an_exported_unet_has_no_tensors_that_its_class_does_not_know(
    tiny_folder: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(tiny_folder, folder)
    file = folder / "unet" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(file)
    name = next(name for name in tensors if name.endswith("to_q.weight"))
    adapter = {name.replace("weight", f"lora_{part}.weight"): torch.ones(1) for part in "AB"}
    save_file({**tensors, **adapter}, file)
    state = whole_component({"conv_out.bias": torch.ones(4)}, folder / "unet")
    config = UNet2DConditionModel.load_config(folder / "unet")
    UNet2DConditionModel.from_config(config).load_state_dict(state, strict=True)
    assert state["conv_out.bias"].eq(1).all()


def test_an_exported_unet_is_the_whole_state_dict_of_the_base_with_the_mask(
    run_export: Run, tiny_store: TinyStore, tiny_pipe: StableDiffusionPipeline
) -> None:
    out = run_export(ADA, form="unet")
    state = load_file(only_safetensors(out))
    fresh = UNet2DConditionModel.from_config(tiny_pipe.unet.config)
    fresh.load_state_dict(state, strict=True)
    untouched = {name: tensor.clone() for name, tensor in tiny_pipe.unet.state_dict().items()}
    mask_of(tiny_store, ADA).apply(tiny_pipe)
    expected = tiny_pipe.unet.state_dict()
    assert all(torch.equal(state[name], expected[name]) for name in expected)
    assert any(not torch.equal(state[name], untouched[name]) for name in untouched)
    assert metadata(out)["form"] == "unet"
    # What attack and benchmark code takes: a pickled state dict, made of it in one line.
    torch.save(state, out / "unet.pt")
    fresh.load_state_dict(torch.load(out / "unet.pt", weights_only=True))


def test_an_exported_pipeline_generates_what_the_base_with_the_mask_generates(
    run_export: Run, tiny_store: TinyStore, tiny_pipe: StableDiffusionPipeline
) -> None:
    out = run_export(ADA, form="pipeline")
    untouched = image(tiny_pipe)
    mask_of(tiny_store, ADA).apply(tiny_pipe)
    expected = image(tiny_pipe)
    assert not torch.equal(expected, untouched)
    assert torch.equal(image(loaded(out)), expected)


def test_an_exported_delta_generates_what_the_base_with_the_mask_generates(
    run_export: Run, tiny_store: TinyStore, tiny_pipe: StableDiffusionPipeline
) -> None:
    edited = load_file(only_safetensors(run_export(CY, form="delta")))
    other = build_pipeline()
    found = other.unet.load_state_dict(edited, strict=False)
    assert not found.unexpected_keys
    mask_of(tiny_store, CY).apply(tiny_pipe)
    assert torch.equal(image(other), image(tiny_pipe))


def test_a_sealed_checkpoint_has_draws_in_the_pruned_places_and_the_rest_of_a_plain_one(
    run_export: Run, tiny_store: TinyStore, tmp_path: Path
) -> None:
    plain = load_file(only_safetensors(run_export(ADA, form="delta")))
    sealed = load_file(
        only_safetensors(run_export(ADA, form="delta", out=tmp_path / "sealed", seal=True))
    )
    layers = mask_of(tiny_store, ADA).layers
    assert plain.keys() == sealed.keys()
    for key, weight in plain.items():
        changed = (weight != sealed[key]).flatten().nonzero()[:, 0]
        assert changed.tolist() == layers[key.removesuffix(".weight")].entries.tolist()
        assert sealed[key].count_nonzero() == sealed[key].numel()
    with pytest.raises(UserError, match="--seal: a mask is the list of places"):
        run_export(ADA, form="mask", out=tmp_path / "mask", seal=True)


def test_a_delta_keeps_the_dtype_of_the_models_files(
    run_export: Run, tiny_store: TinyStore, tmp_path: Path
) -> None:
    # In the collection's dtype, the weights that stay would be rounded.
    uri = str(tmp_path / "copy")
    shutil.copytree(tiny_store.uri, uri)
    run_file = Path(uri) / "runs" / f"run={tiny_store.plan.run}" / "run.json"
    record = json.loads(run_file.read_text())
    record["manifest"]["collection"]["dtype"] = "float16"
    run_file.write_text(json.dumps(record))
    edited = load_file(only_safetensors(run_export(ADA, form="delta", store=uri)))
    assert {tensor.dtype for tensor in edited.values()} == {torch.float32}


def test_an_exported_mask_applies_and_comes_off(
    run_export: Run, tiny_store: TinyStore, tiny_pipe: StableDiffusionPipeline
) -> None:
    mask = conceptprune.load_mask(only_safetensors(run_export(ADA, form="mask", model=None)))
    assert mask.digest == mask_of(tiny_store, ADA).digest
    before = image(tiny_pipe)
    mask.apply(tiny_pipe)
    assert not torch.equal(image(tiny_pipe), before)
    mask.remove(tiny_pipe)
    assert torch.equal(image(tiny_pipe), before)


def test_an_exported_single_file_generates_what_the_base_with_the_mask_generates(
    run_export: Run, tiny_store: TinyStore, tiny_pipe: StableDiffusionPipeline
) -> None:
    file = only_safetensors(run_export(ADA, form="single-file"))
    pipe = StableDiffusionPipeline.from_single_file(
        str(file), config=str(tiny_store.model), local_files_only=True
    )
    mask_of(tiny_store, ADA).apply(tiny_pipe)
    assert torch.equal(image(aligned(pipe)), image(tiny_pipe))


def test_fused_concepts_are_one_checkpoint(
    run_export: Run, tiny_store: TinyStore, tiny_pipe: StableDiffusionPipeline
) -> None:
    out = run_export(ADA, CY, form="pipeline", fuse="union")
    for name in (ADA, CY):
        mask_of(tiny_store, name).apply(tiny_pipe)
    assert torch.equal(image(loaded(out)), image(tiny_pipe))
    assert metadata(out)["concepts"] == [ADA, CY]
    assert len(metadata(out)["parts"]) == 2  # type: ignore[arg-type]


def test_a_budget_is_spent_from_the_stores_own_statistics(
    run_export: Run, tiny_store: TinyStore
) -> None:
    out = run_export(ADA, CY, form="mask", fuse="budget", fraction=0.005)
    mask = conceptprune.load_mask(only_safetensors(out))
    assert mask.num_entries == int(0.005 * mask.num_weights)
    union = union_masks([mask_of(tiny_store, name) for name in (ADA, CY)])
    assert union.num_entries > mask.num_entries
    for name, layer in mask.layers.items():
        assert set(layer.entries) <= set(union.layers[name].entries)
    assert "`budget fraction 0.005`" in (out / "README.md").read_text()


def test_a_budget_needs_the_prompts_of_the_concepts_it_is_spent_on_and_no_others(
    run_export: Run, tiny_store: TinyStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = str(tmp_path / "copy")
    shutil.copytree(tiny_store.uri, uri)
    # As if each concept's prompts had been a unit of their own, and the last one's had failed.
    monkeypatch.setattr("conceptprune.units.prompts_units.CONCEPTS_PER_PROMPTS_UNIT", 1)
    worker = Worker(Store(uri), tiny_store.prepared.model)
    for unit in tiny_store.prepared.prompts_units()[:2]:
        worker.run(unit)
    plan = whole_plan(tiny_store.prepared)
    made = [
        done(unit, commit)
        for unit in plan.units()
        if (commit := Store(uri).find(unit.kind, unit.key))
    ]
    record_run(Store(uri), tiny_store.prepared, plan, made)
    budget = {"form": "mask", "fuse": "budget", "fraction": 0.005, "store": uri}
    only_safetensors(run_export(ADA, CY, **budget))
    with pytest.raises(UserError, match=f'--fuse budget: the prompts of "{LAST}" in run'):
        run_export(ADA, LAST, out=tmp_path / "other", **budget)


def test_shared_entries_can_be_retained(run_export: Run, tiny_store: TinyStore) -> None:
    out = run_export(ADA, CY, form="mask", fuse="retain-shared", alpha=1.0)
    mask = conceptprune.load_mask(only_safetensors(out))
    ada, cy = (mask_of(tiny_store, name) for name in (ADA, CY))
    for name, layer in mask.layers.items():
        expected = set(ada.layers[name].entries) ^ set(cy.layers[name].entries)
        assert set(layer.entries) == expected


def test_several_concepts_get_a_folder_each(
    run_export: Run, tiny_store: TinyStore, capsys: pytest.CaptureFixture[str]
) -> None:
    out = run_export(*CONCEPTS, form="mask")
    folders = sorted(out.iterdir())
    masks = [conceptprune.load_mask(only_safetensors(folder)) for folder in folders]
    assert {mask.concepts for mask in masks} == {(name,) for name in CONCEPTS}
    for folder, mask in zip(folders, masks, strict=True):
        assert folder.name == f"{slug(mask.concepts[0])}-{mask.digest[:8]}"
        assert (folder / "README.md").is_file()
        assert metadata(folder)["concepts"] == list(mask.concepts)
    printed = capsys.readouterr().out
    assert all(f"wrote {folder}: mask without " in printed for folder in folders)


def test_a_concept_is_found_as_manifests_compare_names_and_exported_once(run_export: Run) -> None:
    out = run_export("ada  BELL", "Ada Bell", form="mask")
    assert conceptprune.load_mask(only_safetensors(out)).concepts == (ADA,)


def test_a_hostile_name_stays_text(run_export: Run, tmp_path: Path) -> None:
    out = run_export(HOSTILE_NAME, form="delta", out=tmp_path / "a" / "b" / "out")
    assert only_safetensors(out).name.startswith("eve-rm-link-x-")
    assert sorted(path.name for path in (tmp_path / "a" / "b").iterdir()) == ["out"]
    card = (out / "README.md").read_text()
    assert "without `` ../../Eve ¦ `rm` [link](x) ``" in card
    assert HOSTILE_NAME not in card
    assert metadata(out)["concepts"] == [HOSTILE_NAME]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Ada Bell", "ada-bell"),
        ("Salvador Dalí", "salvador-dali"),
        ("../..", ""),
        ("北斎", ""),
        ("CON: a\\b", "con-a-b"),
        ("x" * 200, "x" * 40),
    ],
)
def test_a_slug_is_a_safe_file_name(text: str, expected: str) -> None:
    assert slug(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"), [("a", "`a`"), ("`", "`` ` ``"), ("a``b", "``` a``b ```"), ("|", "`¦`")]
)
def test_a_code_span_cannot_be_left(text: str, expected: str) -> None:
    assert code_span(text) == expected


def test_the_metadata_says_where_the_checkpoint_comes_from(
    run_export: Run, tiny_store: TinyStore
) -> None:
    out = run_export(ADA, form="delta")
    mask = mask_of(tiny_store, ADA)
    found = metadata(out)
    (part,) = found.pop("parts")  # type: ignore[misc]
    plan = tiny_store.plan.concepts[0]
    assert found["base_model"] == "tiny"
    assert found["model_digest"] == tiny_store.prepared.model.identity
    assert found["file"] == only_safetensors(out).name
    assert (found["entries"], found["mask_digest"]) == (mask.num_entries, mask.digest)
    assert part["selection"]["sparsity"] == 0.02
    assert len(part["timesteps"]) == 3
    assert part["seed"] == 0
    assert part["prompts_digest"]["target"] == plan.target.prompts_digest
    assert "torch" in part["versions"]


@pytest.mark.parametrize("form", ["pipeline", "single-file", "unet", "delta", "mask"])
def test_the_card_tells_what_it_is_how_to_load_it_and_its_limits(
    run_export: Run, tiny_store: TinyStore, form: str
) -> None:
    out = run_export(ADA, form=form)
    card = (out / "README.md").read_text()
    _, front, body = card.split("---\n", 2)
    front_matter = yaml.safe_load(front)
    assert front_matter["base_model"] == "tiny"
    assert "conceptprune" in front_matter["tags"]
    mask = mask_of(tiny_store, ADA)
    for expected in (
        "# `tiny` without `Ada Bell`",
        tiny_store.prepared.model.identity,
        mask.digest,
        f"{mask.num_entries:,}",
        f"{100 * mask.density:.2f} %",
        f"{100 * mask.num_entries / tiny_store.prepared.denoiser_weights:.3f} %",
        "| `Ada Bell` | style | conceptprune, sparsity 0.02 | 3 |",
        tiny_store.plan.concepts[0].target.prompts_digest[:16],
        f"torch {torch.__version__}",
        "Anyone with the base model can put the zeroed weights back",
        "side channel",
        "Not a safety guarantee",
        "states no accuracy",
    ):
        assert expected in body
    verb = {
        "pipeline": "from_pretrained",
        "single-file": "StableDiffusionPipeline.from_single_file",
        "delta": "load_state_dict",
        "unet": "load_state_dict",
        "mask": "load_mask",
    }[form]
    code = body.split("```python\n")[1].split("```")[0]
    assert verb in code
    if form != "pipeline":
        assert only_safetensors(out).name in code
    compile(code, "card", "exec")


@pytest.fixture
def few_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pipeline takes two steps for an image unless it is asked for another number."""
    call = StableDiffusionPipeline.__call__
    monkeypatch.setattr(
        StableDiffusionPipeline, "__call__", partialmethod(call, num_inference_steps=2)
    )


def test_the_code_of_every_card_runs_as_it_is_in_a_fresh_process(
    run_export: Run,
    run_cards: RunCards,
    tiny_store: TinyStore,
    tiny_pipe: StableDiffusionPipeline,
    tmp_path: Path,
) -> None:
    forms = ["mask", "pipeline", "single-file", "unet", "delta"]
    folders = []
    for form in forms:
        folders.append(run_export(ADA, form=form, out=tmp_path / form))
        if form != "pipeline":  # Which is said above the code: the base model's folder is there.
            (folders[-1] / "tiny").symlink_to(tiny_store.model)
    of_mask, *others = run_cards(folders)
    # The code of a mask takes it off again.
    assert of_mask == num_zeros(tiny_pipe)
    mask_of(tiny_store, ADA).apply(tiny_pipe)
    assert others == [num_zeros(tiny_pipe)] * len(others)


def num_zeros(pipe: StableDiffusionPipeline) -> list[int]:
    return [int((parameter == 0).sum()) for parameter in pipe.unet.parameters()]


@pytest.mark.usefixtures("few_steps")
def test_the_code_of_a_card_loads_the_delta_of_every_component(
    tiny_pipe: StableDiffusionPipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "encoder.layers.0.mlp.fc2.weight"
    files = {"unet": "a.safetensors", "text_encoder": "a.text_encoder.safetensors"}
    save_file({"conv_out.bias": torch.full((4,), 7.0)}, tmp_path / files["unet"])
    # As some versions of transformers call it, and the tiny model does not.
    (live,) = (key for key in tiny_pipe.text_encoder.state_dict() if key.endswith(name))
    other = name if live != name else "text_model." + name
    new = torch.full_like(tiny_pipe.text_encoder.state_dict()[live], 5.0)
    save_file({other: new}, tmp_path / files["text_encoder"])
    code = load_lines("delta", base_model="tiny", revision=None, delta_files=files)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("diffusers.DiffusionPipeline.from_pretrained", lambda _: tiny_pipe)
    exec(code, {})
    assert tiny_pipe.unet.conv_out.bias.eq(7).all()
    assert tiny_pipe.text_encoder.state_dict()[live].eq(5).all()


def test_all_files_of_an_export_have_one_mode(run_export: Run, tmp_path: Path) -> None:
    for form in ("single-file", "delta", "mask"):
        out = run_export(ADA, form=form, out=tmp_path / form)
        assert len({path.stat().st_mode for path in out.iterdir()}) == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"form": "pipline"},
            "--as pipline: allowed are pipeline, single-file, unet, delta, mask; nearest: pipeline",
        ),
        (
            {"form": "mask", "fuse": "unoin"},
            r"--fuse unoin: allowed are union, retain-shared, budget; nearest: union",
        ),
        ({"form": "mask", "run": "nope"}, r"has no such run; there are: [0-9a-f]{16}"),
        ({"form": "delta", "model": None}, r"--model: the folder of tiny is needed"),
        ({"form": "delta", "model": Path("/nowhere")}, r"/nowhere is not a folder"),
    ],
)
def test_a_wrong_option_is_explained_and_nothing_is_written(
    run_export: Run, tmp_path: Path, options: dict[str, object], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        run_export(ADA, **options)
    assert list(tmp_path.iterdir()) == []


def test_unknown_concepts_are_all_named_with_the_nearest_spelling(
    run_export: Run, tmp_path: Path
) -> None:
    with pytest.raises(UserError) as error:
        run_export("Ada Bel", CY, "zzz", form="mask")
    first, second = str(error.value).splitlines()
    assert '"Ada Bel" is not a concept of run' in first
    assert first.endswith("nearest: Ada Bell")
    assert '"zzz"' in second
    assert f"there are: {', '.join(CONCEPTS)}" in second
    assert list(tmp_path.iterdir()) == []


def test_another_model_is_refused(run_export: Run, tiny_store: TinyStore, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(tiny_store.model, other)
    config = other / "scheduler" / "scheduler_config.json"
    config.write_text(config.read_text() + "\n")
    with pytest.raises(UserError, match=r"other is not the model of run .*\(tiny\)"):
        run_export(ADA, form="pipeline", model=other)
    assert not (tmp_path / "out").exists()


def test_the_shipped_model_is_found_without_being_named(
    run_export: Run, tiny_store: TinyStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = relabelled(tiny_store, tmp_path / "store", label="studio")
    monkeypatch.setattr(export_files, "model_path", lambda: tiny_store.model)
    out = run_export(ADA, form="delta", store=store, model=None)
    assert only_safetensors(out)


def test_a_single_file_is_a_base_model_once_a_run_has_converted_it(
    run_export: Run, tiny_store: TinyStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    file = tmp_path / "model.safetensors"
    nothing = PruningMask(concepts=("none",), component="unet", layers={}, provenance={})
    write_single_file(nothing, tiny_store.model, file)
    with pytest.raises(UserError, match=r"no run on this machine had .*model\.safetensors"):
        run_export(ADA, form="delta", model=file)
    converted_folder(file, tiny_store.model)
    edited = only_safetensors(run_export(ADA, form="delta", model=file))
    again = only_safetensors(run_export(ADA, form="delta", out=tmp_path / "again"))
    assert edited.read_bytes() == again.read_bytes()


@pytest.mark.parametrize(
    ("label", "revision", "expected"),
    [
        ("studio", None, "from_pretrained(conceptprune.studio.model_path())"),
        ("tiny", None, 'from_pretrained("tiny")'),
        ("org/sd", "0" * 40, f'from_pretrained("org/sd", revision="{"0" * 40}")'),
    ],
)
def test_the_card_says_which_base_to_load(
    tiny_store: TinyStore, label: str, revision: str | None, expected: str
) -> None:
    mask = mask_of(tiny_store, ADA)
    mask = replace(mask, provenance={**mask.provenance, "model": label, "revision": revision})
    card = model_card(
        Exported(
            form="mask",
            mask=mask,
            parts=[mask],
            model_digest="d",
            pipeline="StableDiffusionPipeline",
            denoiser_weights=10**6,
            file="a.safetensors",
        )
    )
    assert expected in card
    assert (f"| its revision | `{revision}` |" in card) == (revision is not None)


def test_the_card_replaces_that_of_the_base_model(
    run_export: Run, tiny_store: TinyStore, tmp_path: Path
) -> None:
    base = tmp_path / "base"
    shutil.copytree(tiny_store.model, base)
    (base / "README.md").write_text("the base model's own card")
    out = run_export(ADA, form="pipeline", model=base)
    assert "without `Ada Bell`" in (out / "README.md").read_text()


def relabelled(tiny: TinyStore, folder: Path, *, label: str) -> str:
    shutil.copytree(tiny.uri, folder)
    run_file = folder / "runs" / f"run={tiny.plan.run}" / "run.json"
    record = json.loads(run_file.read_text())
    record["model"]["label"] = label
    run_file.write_text(json.dumps(record))
    return str(folder)


def test_an_unfinished_mask_is_named(
    run_export: Run, tiny_store: TinyStore, tmp_path: Path
) -> None:
    store = Store(str(tmp_path / "store"))
    record_run(store, tiny_store.prepared, tiny_store.plan)
    with pytest.raises(UserError, match='the mask of "Ada Bell" is not finished'):
        run_export(ADA, form="mask", store=store.uri)


def test_the_newest_run_is_taken_unless_one_is_named(
    run_export: Run, tiny_store: TinyStore, tmp_path: Path
) -> None:
    folder = tmp_path / "store"
    shutil.copytree(tiny_store.uri, folder)
    runs = folder / "runs"
    old = runs / f"run={tiny_store.plan.run}"
    new = runs / "run=ffff"
    shutil.copytree(old, new)
    record = json.loads((new / "run.json").read_text())
    record["started"] += 100
    record["manifest"]["concepts"] = record["manifest"]["concepts"][:1]
    (new / "run.json").write_text(json.dumps(record))
    with pytest.raises(UserError, match="is not a concept of run ffff"):
        run_export(CY, form="mask", store=str(folder))
    run_export(CY, form="mask", store=str(folder), run=tiny_store.plan.run)


def test_a_folder_in_use_is_left_alone(run_export: Run, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    run_export(ADA, form="mask")  # An empty folder may be filled.
    before = sorted(out.iterdir())
    with pytest.raises(UserError, match="exists already"):
        run_export(CY, form="mask")
    assert sorted(out.iterdir()) == before


def test_a_failed_export_leaves_nothing_behind(
    run_export: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> str:
        raise RuntimeError("disk full")

    monkeypatch.setattr(export_files, "model_card", fail)
    with pytest.raises(RuntimeError, match="disk full"):
        run_export(ADA, form="pipeline")
    assert list(tmp_path.iterdir()) == []


def test_the_mask_of_another_concept_is_not_exported_whatever_its_record_says(
    tiny_store: TinyStore, tmp_path: Path, run_export: Run
) -> None:
    store = copied(tiny_store, tmp_path / "store")
    mine, other = (plan.mask for plan in tiny_store.plan.concepts if plan.concept.name in (ADA, CY))
    record = replace(store.get("mask", mine.key), objects=store.get("mask", other.key).objects)
    place = Path(store.uri, "commits", "mask", f"{mine.key}.json")
    place.unlink()
    place.write_bytes(record.to_bytes())
    with pytest.raises(StoreError, match=f'recorded as the mask of "{ADA}".*mask of {CY}'):
        run_export(ADA, form="mask", store=store.uri)
    assert not (tmp_path / "out").exists()
    assert _is_lost(store, mine)  # As `erase --verify` looks at it.
    assert _is_lost(store, mine)  # As `erase --verify` looks at it.
    assert store.find("mask", mine.key) is None
