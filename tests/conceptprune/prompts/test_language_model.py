"""A real language model, trained in seconds: seeded answers, and what is refused to be loaded."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from conceptprune.errors import UserError
from conceptprune.manifest import Concept, Generator
from conceptprune.prompts.fillers import write_fillers
from conceptprune.prompts.language_model import (
    LanguageModel,
    check_language_model,
    language_model_identity,
)
from tests.support.tiny_language_model import CONCEPT, MANIFEST_SETTINGS, WORDS

# The model is trained first.
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def model(language_model_folder: Path) -> LanguageModel:
    return LanguageModel.load(language_model_folder, dtype=torch.float32, device="cpu")


def settings(folder: Path, **fields: Any) -> Generator:
    content = {"model": {"folder": str(folder)}, **MANIFEST_SETTINGS, **fields}
    return Generator.model_validate(content)


def test_it_writes_fillers_that_no_other_concept_and_no_random_state_has_a_part_in(
    model: LanguageModel, language_model_folder: Path
) -> None:
    asked = settings(language_model_folder)
    names = (CONCEPT, "Brint", "Kesto")

    def write(name: str) -> tuple[str, ...]:
        concept = Concept(name=name, kind="style")
        return write_fillers(
            concept, asked, lambda question, seed: model.answer(question, seed, asked)
        ).fillers

    before = torch.get_rng_state()
    first = {name: write(name) for name in names}
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(7)
    assert {name: write(name) for name in reversed(names)} == first
    assert all(set(fillers) <= {*WORDS, CONCEPT} for fillers in first.values())
    assert len(set(first.values())) == len(names)


def test_the_name_that_it_now_and_then_says_is_never_a_filler(
    model: LanguageModel, language_model_folder: Path
) -> None:
    asked = settings(language_model_folder, per_concept=12, max_asks=20)
    concept = Concept(name=CONCEPT, kind="style")
    written = write_fillers(
        concept, asked, lambda question, seed: model.answer(question, seed, asked)
    )
    assert CONCEPT not in written.fillers
    assert "names the concept" in {line.rejected for line in written.lines}


def test_the_question_goes_through_the_chat_template(
    model: LanguageModel, language_model_folder: Path
) -> None:
    asked = settings(language_model_folder)
    (row,) = model._inputs("what")["input_ids"].tolist()
    assert model.tokenizer.decode(row) == "<user><unk><list>"
    assert model.answer("what", 0, asked).complete
    assert not model.answer("what", 0, settings(language_model_folder, max_new_tokens=3)).complete


def test_more_tokens_than_it_can_take_are_refused(
    model: LanguageModel, language_model_folder: Path
) -> None:
    with pytest.raises(UserError, match=r"max_new_tokens: .* at most 253, as .* takes 256"):
        model.answer("what", 0, settings(language_model_folder, max_new_tokens=254))


def test_its_digest_is_that_of_weights_configs_and_template(
    language_model_folder: Path, tmp_path: Path
) -> None:
    copy = shutil.copytree(language_model_folder, tmp_path / "copy")
    first = language_model_identity(language_model_folder)
    assert language_model_identity(copy) == first
    (copy / "README.md").write_text("no part of it")
    assert language_model_identity(copy) == first
    template = copy / "chat_template.jinja"
    template.write_text(template.read_text() + " ")
    assert language_model_identity(copy) != first


def test_a_model_that_brings_code_is_refused_and_its_code_is_not_run(
    language_model_folder: Path, tmp_path: Path
) -> None:
    copy = shutil.copytree(language_model_folder, tmp_path / "copy")
    config = json.loads((copy / "config.json").read_text())
    config |= {
        "model_type": "of_its_own",
        "auto_map": {"AutoConfig": "code.Config", "AutoModelForCausalLM": "code.Model"},
    }
    (copy / "config.json").write_text(json.dumps(config))
    (copy / "code.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    with pytest.raises(UserError, match=r"prompts\.generator\.model: cannot load"):
        LanguageModel.load(copy, dtype=torch.float32, device="cpu")
    assert not (tmp_path / "ran").exists()


def test_pickled_weights_are_refused(language_model_folder: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(language_model_folder, tmp_path / "copy")
    (copy / "model.safetensors").rename(copy / "pytorch_model.bin")
    with pytest.raises(UserError, match="no safetensors checkpoint"):
        language_model_identity(copy)
    with pytest.raises(UserError, match="cannot load a language model"):
        LanguageModel.load(copy, dtype=torch.float32, device="cpu")


def test_a_model_that_lacks_a_tensor_is_refused_and_never_asked(
    language_model_folder: Path, tmp_path: Path
) -> None:
    check_language_model(language_model_folder)
    copy = shutil.copytree(language_model_folder, tmp_path / "copy")
    tensors = load_file(copy / "model.safetensors")
    (lost,) = (name for name in tensors if "layers.0.mlp.down_proj" in name)
    del tensors[lost]
    save_file(tensors, copy / "model.safetensors", {"format": "pt"})
    with pytest.raises(UserError, match=lost):
        check_language_model(copy)
    with pytest.raises(UserError, match=lost):
        LanguageModel.load(copy, dtype=torch.float32, device="cpu")
