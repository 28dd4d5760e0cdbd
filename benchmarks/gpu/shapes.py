"""Public models at their real sizes, with seeded random weights instead of a download.

Configurations are those of the models' published config.json files. Speed, memory and bytes depend
on shapes alone; tokenizers know single characters, as prompts are padded to full length anyway.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    DiffusionPipeline,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    PNDMScheduler,
    SchedulerMixin,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from torch import nn
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    T5Config,
    T5EncoderModel,
)

from tests.support.tiny_models import clip_tokenizer, t5_tokenizer

NOISE = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "steps_offset": 1,
}
SD15_UNET: Mapping[str, Any] = {
    "sample_size": 64,
    "cross_attention_dim": 768,
    "attention_head_dim": 8,
}
SDXL_UNET: Mapping[str, Any] = {
    "sample_size": 128,
    "block_out_channels": (320, 640, 1280),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "transformer_layers_per_block": (1, 2, 10),
    "attention_head_dim": (5, 10, 20),
    "cross_attention_dim": 2048,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
    "use_linear_projection": True,
}
SD3_TRANSFORMER: Mapping[str, Any] = {
    "sample_size": 128,
    "patch_size": 2,
    "in_channels": 16,
    "out_channels": 16,
    "num_layers": 24,
    "attention_head_dim": 64,
    "num_attention_heads": 24,
    "joint_attention_dim": 4096,
    "caption_projection_dim": 1536,
    "pooled_projection_dim": 2048,
    "pos_embed_max_size": 192,
}
FLUX_TRANSFORMER: Mapping[str, Any] = {
    "patch_size": 1,
    "in_channels": 64,
    "num_layers": 19,
    "num_single_layers": 38,
    "attention_head_dim": 128,
    "num_attention_heads": 24,
    "joint_attention_dim": 4096,
    "pooled_projection_dim": 768,
    "guidance_embeds": True,
    "axes_dims_rope": (16, 56, 56),
}
T5_LAYERS = 2
"""Of T5-XXL's 24: its speed is not in question, and its 9 GB would take up the memory."""


@dataclass(frozen=True, kw_only=True)
class Shape:
    """A public model, and how to build it without its weights."""

    name: str
    title: str
    denoiser: Callable[..., nn.Module]
    config: Mapping[str, Any]
    pipeline: Callable[[nn.Module], DiffusionPipeline]
    cut: tuple[str, ...] = ()
    """Fields of the config: numbers of blocks, which may be cut to fit into memory."""
    pixels: int = 1024

    def fitting(self, room: int, dtype: torch.dtype) -> dict[str, Any] | None:
        """The config whose weights take at most `room` bytes; None if no cut is enough."""
        for quarters in (4, 3, 2, 1) if self.cut else (4,):
            cut = {key: max(1, self.config[key] * quarters // 4) for key in self.cut}
            config = {**self.config, **cut}
            if self.parameters(config) * dtype.itemsize <= room:
                return config
        return None

    def parameters(self, config: Mapping[str, Any]) -> int:
        """Parameters of the denoiser with that config, which is built without memory."""
        with torch.device("meta"):
            return sum(weight.numel() for weight in self.denoiser(**config).parameters())

    def build(
        self, config: Mapping[str, Any], dtype: torch.dtype, device: torch.device
    ) -> DiffusionPipeline:
        """The pipeline, made on `device`; the same seed gives other weights on another device."""
        with seeded(), of_dtype(dtype), device:
            pipe = self.pipeline(self.denoiser(**config))
        for module in pipe.components.values():
            if isinstance(module, nn.Module):
                # Some buffers are made elsewhere, or in float32, whatever the context says.
                module.to(device, dtype)
        pipe.set_progress_bar_config(disable=True)
        return pipe


@contextmanager
def seeded() -> Iterator[None]:
    """Random numbers from seed 0; the caller's generator is left as it was."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


@contextmanager
def of_dtype(dtype: torch.dtype) -> Iterator[None]:
    """Make weights in `dtype` at once: in float32 first, FLUX would take twice the memory."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def _scheduler(kind: type[SchedulerMixin], **config: Any) -> SchedulerMixin:
    """On the host and in float32, as in every pipeline."""
    with of_dtype(torch.float32), torch.device("cpu"):
        return kind(**config)


def _clip_l(kind: type[CLIPTextModel] = CLIPTextModel) -> CLIPTextModel:
    """The encoder of CLIP ViT-L/14."""
    return kind(
        CLIPTextConfig(
            hidden_size=768,
            intermediate_size=3072,
            num_hidden_layers=12,
            num_attention_heads=12,
            projection_dim=768,
        )
    ).eval()


def _clip_big_g() -> CLIPTextModel:
    """The encoder of OpenCLIP ViT-bigG/14."""
    return CLIPTextModelWithProjection(
        CLIPTextConfig(
            hidden_size=1280,
            intermediate_size=5120,
            num_hidden_layers=32,
            num_attention_heads=20,
            projection_dim=1280,
            hidden_act="gelu",
        )
    ).eval()


def _t5() -> T5EncoderModel:
    return T5EncoderModel(
        T5Config(
            vocab_size=32128,
            d_model=4096,
            d_kv=64,
            d_ff=10240,
            num_layers=T5_LAYERS,
            num_heads=64,
            feed_forward_proj="gated-gelu",
        )
    ).eval()


def _vae(channels: int = 4, **config: Any) -> AutoencoderKL:
    return AutoencoderKL(
        block_out_channels=(128, 256, 512, 512),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=2,
        latent_channels=channels,
        **config,
    ).eval()


def _stable_diffusion(unet: nn.Module) -> DiffusionPipeline:
    return StableDiffusionPipeline(
        vae=_vae(sample_size=512),
        text_encoder=_clip_l(),
        tokenizer=clip_tokenizer(),
        unet=unet,
        scheduler=_scheduler(PNDMScheduler, **NOISE, skip_prk_steps=True),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def _stable_diffusion_xl(unet: nn.Module) -> DiffusionPipeline:
    return StableDiffusionXLPipeline(
        vae=_vae(sample_size=1024, scaling_factor=0.13025),
        text_encoder=_clip_l(),
        text_encoder_2=_clip_big_g(),
        tokenizer=clip_tokenizer(),
        tokenizer_2=clip_tokenizer(),
        unet=unet,
        scheduler=_scheduler(EulerDiscreteScheduler, **NOISE),
        add_watermarker=False,
    )


def _stable_diffusion_3(transformer: nn.Module) -> DiffusionPipeline:
    return StableDiffusion3Pipeline(
        vae=_vae(16, scaling_factor=1.5305, shift_factor=0.0609),
        text_encoder=_clip_l(CLIPTextModelWithProjection),
        text_encoder_2=_clip_big_g(),
        text_encoder_3=None,
        tokenizer=clip_tokenizer(),
        tokenizer_2=clip_tokenizer(),
        tokenizer_3=None,
        transformer=transformer,
        scheduler=_scheduler(FlowMatchEulerDiscreteScheduler, shift=3.0),
    )


def _flux(transformer: nn.Module) -> DiffusionPipeline:
    return FluxPipeline(
        vae=_vae(16, scaling_factor=0.3611, shift_factor=0.1159),
        text_encoder=_clip_l(),
        text_encoder_2=_t5(),
        tokenizer=clip_tokenizer(),
        tokenizer_2=t5_tokenizer(),
        transformer=transformer,
        scheduler=_scheduler(FlowMatchEulerDiscreteScheduler, shift=3.0, use_dynamic_shifting=True),
    )


SHAPES: Mapping[str, Shape] = {
    shape.name: shape
    for shape in (
        Shape(
            name="sd15",
            title="Stable Diffusion 1.5",
            denoiser=UNet2DConditionModel,
            config=SD15_UNET,
            pipeline=_stable_diffusion,
            pixels=512,
        ),
        Shape(
            name="sdxl",
            title="Stable Diffusion XL",
            denoiser=UNet2DConditionModel,
            config=SDXL_UNET,
            pipeline=_stable_diffusion_xl,
        ),
        Shape(
            name="sd3",
            title="Stable Diffusion 3 medium",
            denoiser=SD3Transformer2DModel,
            config=SD3_TRANSFORMER,
            pipeline=_stable_diffusion_3,
            cut=("num_layers",),
        ),
        Shape(
            name="flux",
            title="FLUX.1 dev",
            denoiser=FluxTransformer2DModel,
            config=FLUX_TRANSFORMER,
            pipeline=_flux,
            cut=("num_layers", "num_single_layers"),
        ),
    )
}
