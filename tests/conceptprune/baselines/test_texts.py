"""A text is edited as the denoiser sees it, in every family whose cross-attention sees it."""

import pytest
import torch

from conceptprune.baselines.texts import edits_of, encoded, guides_for
from conceptprune.edits.projections import prompt_projections
from conceptprune.errors import UserError
from conceptprune.manifest import Concept
from conceptprune.models.base import DiffusionModel
from conceptprune.models.families import FAMILIES
from conceptprune.models.prompt import Prompt
from tests.support.tiny_models import STEPS, TINY_MODELS, TinyModel

TEXT = "a house in a style"
JOINT = ("sd3", "flux")
"""Families in which text and image attend to each other, so that no key is of the text alone."""


def model_of(tiny: TinyModel) -> DiffusionModel:
    pipe = tiny.pipeline()
    return FAMILIES[type(pipe).__name__](pipe, resolution=tiny.resolution)


@pytest.mark.parametrize(
    "tiny", [m for m in TINY_MODELS if not m.name.startswith(JOINT)], ids=lambda tiny: tiny.name
)
def test_the_encoded_text_is_what_keys_and_values_take(tiny: TinyModel) -> None:
    model = model_of(tiny)
    linears = prompt_projections(model)
    taken = {}
    handles = [
        linear.register_forward_pre_hook(lambda _, args, name=name: taken.update({name: args[0]}))
        for name, linear in linears.items()
    ]
    batch = model.begin([Prompt(text=TEXT, seed=0)], steps=STEPS, guidance=1.0)
    model.advance(batch)
    for handle in handles:
        handle.remove()
    text = encoded(model, TEXT)
    assert len(taken) == len(linears) > 0
    for states in taken.values():
        assert torch.allclose(states[0].double(), text.states, atol=1e-5)
    shorter = encoded(model, TEXT.removesuffix(" style"))
    assert 0 < shorter.last < text.last < len(text.states)


@pytest.mark.parametrize(
    "tiny", [m for m in TINY_MODELS if m.name.startswith(JOINT)], ids=lambda tiny: tiny.name
)
def test_a_family_without_cross_attention_is_refused(tiny: TinyModel) -> None:
    with pytest.raises(UserError, match="no cross-attention"):
        prompt_projections(model_of(tiny))


def test_expanding_adds_the_published_phrases_of_each_concept_and_of_its_guide() -> None:
    model = model_of(TINY_MODELS[0])
    concepts = [
        Concept(name="Ada", kind="style"),
        Concept(name="car", kind="object"),
        Concept(name="nudity", kind="nudity"),
    ]
    guides = guides_for(concepts, [])
    assert guides == ["art", "", ""]
    plain = edits_of(model, concepts, guides, expand=False)
    more = edits_of(model, concepts, guides, expand=True)
    assert (len(plain), len(more)) == (3, 18)
    for index, erased, guide in [
        (0, "Ada", "art"),
        (1, "painting by Ada", "painting by art"),
        (5, "style of Ada", "style of art"),
        (11, "painting of car", "painting of "),
        (13, "image of nudity", "image of "),
    ]:
        assert torch.equal(more[index].erased.states, encoded(model, erased).states)
        assert torch.equal(more[index].guide.states, encoded(model, guide).states)
