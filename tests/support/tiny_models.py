"""The smallest true configuration of each family: real diffusers classes with random weights.

Every class, component and connection is that of the family; only widths, depths and resolutions
are small. Configs, weights and vocabularies are made here: no download.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    DiffusionPipeline,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    PixArtAlphaPipeline,
    PixArtSigmaPipeline,
    PixArtTransformer2DModel,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
)

from tests.support.sd15_shaped import build_pipeline as stable_diffusion_1

DIM = 32
SIDE = 8
CHARACTERS = [chr(code) for code in range(ord("!"), ord("~") + 1)]
NOISE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


@dataclass(frozen=True, kw_only=True)
class TinyModel:
    """One family's tiny model, and how its diffusers pipeline is asked for the same as ours."""

    name: str
    build: Callable[[], DiffusionPipeline]
    calls: int
    """Denoiser calls that the pipeline makes for `STEPS` steps."""
    num_branches: int = 2
    resolution: int | None = None
    call: Mapping[str, Any] = field(default_factory=dict)

    def pipeline(self) -> DiffusionPipeline:
        """The same weights every time."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            pipe = self.build()
        pipe.set_progress_bar_config(disable=True)
        for module in pipe.components.values():
            if isinstance(module, torch.nn.Module):
                module.eval()
        return pipe


def clip_tokenizer() -> CLIPTokenizer:
    """One token a character."""
    pieces = [*CHARACTERS, *(f"{character}</w>" for character in CHARACTERS)]
    pieces += ["<|startoftext|>", "<|endoftext|>"]
    vocab = {piece: index for index, piece in enumerate(pieces)}
    return CLIPTokenizer(vocab=vocab, merges=[], model_max_length=77)


def clip_encoder(*, projected: bool = False, hidden: int = DIM) -> CLIPTextModel:
    tokenizer = clip_tokenizer()
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=hidden,
        intermediate_size=4 * hidden,
        projection_dim=hidden,
        num_hidden_layers=2,
        num_attention_heads=4,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        initializer_range=hidden**-0.5,
    )
    return (CLIPTextModelWithProjection if projected else CLIPTextModel)(config)


def t5_tokenizer() -> T5Tokenizer:
    """One token a character."""
    special = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    pieces = [(character, -3.0) for character in ["▁", *CHARACTERS]]
    return T5Tokenizer(vocab=special + pieces, extra_ids=0, model_max_length=512)


def t5_encoder() -> T5EncoderModel:
    config = T5Config(
        vocab_size=len(t5_tokenizer()),
        d_model=DIM,
        d_kv=8,
        d_ff=2 * DIM,
        num_layers=2,
        num_heads=4,
        feed_forward_proj="gated-gelu",
        initializer_factor=1.0,
    )
    return T5EncoderModel(config)


def vae(channels: int = 4, **config: Any) -> AutoencoderKL:
    return AutoencoderKL(
        block_out_channels=(8, 8, 8, 8),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=1,
        latent_channels=channels,
        norm_num_groups=4,
        sample_size=8 * SIDE,
        **config,
    )


def stable_diffusion_2() -> StableDiffusionPipeline:
    unet = UNet2DConditionModel(
        sample_size=SIDE,
        block_out_channels=(16, 32),
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        layers_per_block=1,
        attention_head_dim=(2, 4),
        use_linear_projection=True,
        cross_attention_dim=DIM,
        norm_num_groups=8,
    )
    return StableDiffusionPipeline(
        vae=vae(),
        text_encoder=clip_encoder(),
        tokenizer=clip_tokenizer(),
        unet=unet,
        scheduler=DDIMScheduler(
            **NOISE,
            prediction_type="v_prediction",
            clip_sample=False,
            set_alpha_to_one=False,
            steps_offset=1,
        ),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def stable_diffusion_xl(*, zeros: bool = True) -> StableDiffusionXLPipeline:
    # The second text encoder is the wider one, by which diffusers tells them apart in a file.
    wide = 3 * DIM // 2
    unet = UNet2DConditionModel(
        sample_size=SIDE,
        block_out_channels=(16, 32),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        layers_per_block=1,
        transformer_layers_per_block=(1, 2),
        attention_head_dim=(2, 4),
        use_linear_projection=True,
        cross_attention_dim=DIM + wide,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=6 * 8 + wide,
        norm_num_groups=8,
    )
    return StableDiffusionXLPipeline(
        vae=vae(force_upcast=True),
        text_encoder=clip_encoder(),
        text_encoder_2=clip_encoder(projected=True, hidden=wide),
        tokenizer=clip_tokenizer(),
        tokenizer_2=clip_tokenizer(),
        unet=unet,
        scheduler=EulerDiscreteScheduler(**NOISE, steps_offset=1, timestep_spacing="leading"),
        force_zeros_for_empty_prompt=zeros,
        add_watermarker=False,
    )


def stable_diffusion_3() -> StableDiffusion3Pipeline:
    transformer = SD3Transformer2DModel(
        sample_size=SIDE,
        in_channels=16,
        num_layers=2,
        attention_head_dim=8,
        num_attention_heads=4,
        joint_attention_dim=DIM,
        caption_projection_dim=DIM,
        pooled_projection_dim=DIM,
        pos_embed_max_size=SIDE,
        dual_attention_layers=(0,),
        qk_norm="rms_norm",
    )
    return StableDiffusion3Pipeline(
        vae=vae(16, shift_factor=0.0609, scaling_factor=1.5305),
        text_encoder=clip_encoder(projected=True, hidden=DIM // 2),
        text_encoder_2=clip_encoder(projected=True, hidden=DIM // 2),
        text_encoder_3=t5_encoder(),
        tokenizer=clip_tokenizer(),
        tokenizer_2=clip_tokenizer(),
        tokenizer_3=t5_tokenizer(),
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
    )


def flux(*, guidance: bool) -> FluxPipeline:
    transformer = FluxTransformer2DModel(
        in_channels=16,
        num_layers=1,
        num_single_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=DIM,
        pooled_projection_dim=DIM,
        guidance_embeds=guidance,
        axes_dims_rope=(4, 6, 6),
    )
    return FluxPipeline(
        vae=vae(4, shift_factor=0.1159, scaling_factor=0.3611),
        text_encoder=clip_encoder(),
        text_encoder_2=t5_encoder(),
        tokenizer=clip_tokenizer(),
        tokenizer_2=t5_tokenizer(),
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(
            shift=3.0 if guidance else 1.0, use_dynamic_shifting=guidance
        ),
    )


def pixart(pipeline: type[DiffusionPipeline], *, sample_size: int) -> DiffusionPipeline:
    """With the sizes as added conditions where `sample_size` is 128, as in PixArt-alpha."""
    transformer = PixArtTransformer2DModel(
        sample_size=sample_size,
        num_layers=2,
        # Their product must be a multiple of 3: a third each embeds height, width and aspect.
        attention_head_dim=8,
        num_attention_heads=6,
        in_channels=4,
        out_channels=8,
        cross_attention_dim=48,
        caption_channels=DIM,
        use_additional_conditions=sample_size == 128,
        interpolation_scale=1,
    )
    return pipeline(
        vae=vae(),
        text_encoder=t5_encoder(),
        tokenizer=t5_tokenizer(),
        transformer=transformer,
        scheduler=DPMSolverMultistepScheduler(),
    )


STEPS = 4
PIXELS = {"height": 8 * SIDE, "width": 8 * SIDE}
PIXART = {"use_resolution_binning": False, "clean_caption": False}

TINY_MODELS = (
    TinyModel(name="sd1", build=stable_diffusion_1, calls=STEPS + 1),
    TinyModel(name="sd2", build=stable_diffusion_2, calls=STEPS),
    TinyModel(name="sdxl", build=stable_diffusion_xl, calls=STEPS),
    TinyModel(name="sdxl-empty", build=lambda: stable_diffusion_xl(zeros=False), calls=STEPS),
    TinyModel(name="sd3", build=stable_diffusion_3, calls=STEPS),
    TinyModel(
        name="flux-dev",
        build=lambda: flux(guidance=True),
        calls=STEPS,
        num_branches=1,
        resolution=8 * SIDE,
        call=PIXELS,
    ),
    TinyModel(
        name="flux-schnell",
        build=lambda: flux(guidance=False),
        calls=STEPS,
        num_branches=1,
        resolution=8 * SIDE,
        call={**PIXELS, "max_sequence_length": 256},
    ),
    TinyModel(
        name="pixart-alpha",
        build=lambda: pixart(PixArtAlphaPipeline, sample_size=128),
        calls=STEPS,
        resolution=8 * SIDE,
        call={**PIXELS, **PIXART},
    ),
    TinyModel(
        name="pixart-sigma",
        build=lambda: pixart(PixArtSigmaPipeline, sample_size=SIDE),
        calls=STEPS,
        call=PIXART,
    ),
)

ONE_A_FAMILY = tuple(
    tiny for tiny in TINY_MODELS if tiny.name not in ("sdxl-empty", "flux-schnell", "pixart-alpha")
)
"""For what a family's variants, which differ in their conditions and schedules, do alike."""
