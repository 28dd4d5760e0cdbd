"""A checkpoint says what it is: its card, its metadata and the name of its file."""

import shutil
from dataclasses import replace
from functools import partialmethod
from pathlib import Path

import pytest
import torch
import yaml
from diffusers import StableDiffusionPipeline
from safetensors.torch import save_file

from conceptprune.checkpoints.card import Exported, code_span, load_lines, model_card
from pipelines.console.names import slug
from tests.pipelines.commands.conftest import Run, RunCards
from tests.pipelines.commands.exported import mask_of, metadata, only_safetensors
from tests.pipelines.conftest import CONCEPTS, HOSTILE_NAME, TinyStore

ADA = CONCEPTS[0]


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
