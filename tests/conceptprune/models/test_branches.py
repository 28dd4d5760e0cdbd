"""What guidance branches have in common is computed once, and no bit of the statistics changes."""

import pytest
from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from torch import nn

from conceptprune.collection.collect import collect
from conceptprune.manifest import Collection
from conceptprune.models.base import SHARED_FROM
from conceptprune.models.branches import before_the_text, unwatched
from conceptprune.models.prompt import Prompt
from conceptprune.models.stable_diffusion import StableDiffusion
from tests.support.sd15_shaped import build_pipeline

SETTINGS = Collection(steps=20, tau=3, batch_size=SHARED_FROM)
PROMPTS = [Prompt(text=f"a photo of {n} cats", seed=n) for n in range(SHARED_FROM)]


def _unet(*down: str, only_cross_attention: bool = False) -> UNet2DConditionModel:
    up = tuple(kind.replace("Down", "Up") for kind in reversed(down))
    return UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(8, 16),
        layers_per_block=1,
        norm_num_groups=4,
        cross_attention_dim=8,
        attention_head_dim=4,
        down_block_types=down,
        up_block_types=up,
        only_cross_attention=only_cross_attention,
    )


def _names(unet: nn.Module) -> list[str]:
    names = {module: name for name, module in unet.named_modules()}
    return [names[module] for module in before_the_text(unet)]


def test_a_unet_is_searched_up_to_its_first_cross_attention() -> None:
    plain_first = _unet("DownBlock2D", "CrossAttnDownBlock2D")
    assert _names(plain_first) == [
        "conv_in",
        "down_blocks.0",
        # Its block widens the samples with a 1 x 1 convolution, which is not among them.
        "down_blocks.1.resnets.0.conv1",
        "down_blocks.1.resnets.0.conv2",
        "down_blocks.1.attentions.0.transformer_blocks.0.attn1",
    ]
    assert _names(_unet("CrossAttnDownBlock2D", "DownBlock2D")) == [
        "conv_in",
        "down_blocks.0.resnets.0",
        "down_blocks.0.attentions.0.transformer_blocks.0.attn1",
    ]


def test_a_first_attention_that_sees_the_text_is_left_out() -> None:
    unet = _unet("CrossAttnDownBlock2D", "DownBlock2D", only_cross_attention=True)
    assert _names(unet) == ["conv_in", "down_blocks.0.resnets.0"]


def test_the_search_ends_at_a_block_of_an_unknown_kind() -> None:
    assert _names(_unet("AttnDownBlock2D", "CrossAttnDownBlock2D")) == ["conv_in"]


def test_modules_that_someone_watches_see_every_sample() -> None:
    block = nn.Sequential(nn.Linear(2, 2))
    handle = block[0].register_forward_pre_hook(lambda *_: None)
    assert unwatched([block, nn.Identity()])[0] is not block
    handle.remove()
    assert unwatched([block]) == [block]


@pytest.mark.slow
@pytest.mark.parametrize("same_noise", [True, False])
@pytest.mark.parametrize("num_prompts", [SHARED_FROM, 8])
def test_statistics_keep_every_bit(
    monkeypatch: pytest.MonkeyPatch, num_prompts: int, same_noise: bool
) -> None:
    prompts = [
        Prompt(text=f"a photo of {n} cats", seed=0 if same_noise else n) for n in range(num_prompts)
    ]
    settings = SETTINGS.model_copy(update={"batch_size": num_prompts})
    model = StableDiffusion.from_pipeline(build_pipeline())
    once = collect(model, prompts, settings)
    monkeypatch.setattr(StableDiffusion, "before_the_text", lambda _: [])
    assert once.to_arrow().equals(collect(model, prompts, settings).to_arrow())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("num_prompts", "guidance", "branches"),
    [(SHARED_FROM, 7.5, 1), (SHARED_FROM - 1, 7.5, 2), (SHARED_FROM, 1.0, 1)],
)
def test_only_batches_with_enough_prompts_are_halved(
    tiny_pipe: StableDiffusionPipeline, num_prompts: int, guidance: float, branches: int
) -> None:
    # On what a module computes with, because a hook would make it go the plain way.
    conv_in, seen = tiny_pipe.unet.conv_in, []
    forward = conv_in.forward
    conv_in.forward = lambda sample: seen.append(len(sample)) or forward(sample)
    try:
        collect(
            StableDiffusion.from_pipeline(tiny_pipe),
            PROMPTS[:num_prompts],
            SETTINGS.model_copy(update={"guidance": guidance}),
        )
    finally:
        del conv_in.forward
    assert seen == [branches * num_prompts] * SETTINGS.tau
    assert not any(part._forward_hooks for part in tiny_pipe.unet.modules())
