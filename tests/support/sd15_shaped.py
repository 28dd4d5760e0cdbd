"""A randomly initialised pipeline with Stable Diffusion 1.5's structure and little of its size.

The U-Net has SD 1.5's sixteen transformer blocks in the same places, the scheduler is PNDM with
SD's settings, and the text encoder is CLIP. Only widths and resolutions are small, so that a
denoiser call takes milliseconds. Configs, weights and vocabulary are made here: no download.
"""

from __future__ import annotations

import math

import torch
from diffusers import AutoencoderKL, PNDMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

TEXT_DIM = 32
MAX_TOKENS = 77
NUM_TRANSFORMER_BLOCKS = 16

# With these channels 1 % of the feed-forward's inner width (4 x channels) is at least one column:
# 32 -> 128 -> 1 and 64 -> 256 -> 2.
TEST_CHANNELS = (32, 64, 64, 64)
TEST_LATENT_SIZE = 8


def build_pipeline(
    seed: int = 0,
    *,
    channels: tuple[int, int, int, int] = TEST_CHANNELS,
    latent_size: int = TEST_LATENT_SIZE,
) -> StableDiffusionPipeline:
    """Build the pipeline; the same seed gives the same weights.

    SD 1.5 itself would have channels (320, 640, 1280, 1280) and latents of 64.
    """
    tokenizer = _tokenizer()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        text_encoder = _text_encoder(tokenizer)
        unet = _unet(channels, latent_size)
        vae = _vae(latent_size)
        _spread_neurons(unet)
    pipe = StableDiffusionPipeline(
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def _unet(channels: tuple[int, int, int, int], latent_size: int) -> UNet2DConditionModel:
    unet = UNet2DConditionModel(
        sample_size=latent_size,
        in_channels=4,
        out_channels=4,
        down_block_types=("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
        up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
        block_out_channels=channels,
        layers_per_block=2,
        attention_head_dim=8,
        cross_attention_dim=TEXT_DIM,
        norm_num_groups=8,
    )
    return unet.eval()


def _spread_neurons(unet: nn.Module) -> None:
    """Make neurons unequal, and text and time audible, as training does.

    PyTorch's default initialisation makes every neuron alike and text and time nearly inaudible:
    activation norms would be flat across columns and the same for every prompt and call, and a test
    of *which* neurons are picked could pass for the wrong reason.
    """
    for name, module in unet.named_modules():
        if not isinstance(module, nn.Linear):
            continue
        if name.endswith("ff.net.0.proj"):
            module.weight.data.mul_(torch.exp(0.5 * torch.randn(module.out_features, 1)))
        elif name.endswith(("attn2.to_k", "attn2.to_v", "attn2.to_out.0")):
            module.weight.data.mul_(3.0)
        elif name.endswith("time_emb_proj"):
            module.weight.data.mul_(8.0)


def _text_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=TEXT_DIM,
        intermediate_size=4 * TEXT_DIM,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=MAX_TOKENS,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        # CLIP's usual 0.02 would leave all prompts nearly alike in so narrow an encoder.
        initializer_range=1 / math.sqrt(TEXT_DIM),
    )
    return CLIPTextModel(config).eval()


def _tokenizer() -> CLIPTokenizer:
    """CLIP's byte-level tokenizer over printable ASCII, without merges: one token a character."""
    characters = [chr(code) for code in range(ord("!"), ord("~") + 1)]
    # CLIP marks a word's last piece with "</w>", so every character needs both forms.
    pieces = characters + [f"{character}</w>" for character in characters]
    pieces += ["<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(
        vocab={piece: index for index, piece in enumerate(pieces)},
        merges=[],
        model_max_length=MAX_TOKENS,
    )


def _vae(latent_size: int) -> AutoencoderKL:
    vae = AutoencoderKL(
        block_out_channels=(8, 8, 8, 8),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=4,
        sample_size=8 * latent_size,
    )
    return vae.eval()


def _scheduler() -> PNDMScheduler:
    """SD 1.5's scheduler settings: 50 steps make 51 calls, the second timestep twice."""
    return PNDMScheduler(
        num_train_timesteps=1000,
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        skip_prk_steps=True,
        set_alpha_to_one=False,
        prediction_type="epsilon",
        steps_offset=1,
    )
