# mypy: disable-error-code="no-any-return"
# diffusers has no types of its own.
"""The two untrained denoisers with their text encoders, and the stock pipelines they go into."""

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    DiffusionPipeline,
    PixArtAlphaPipeline,
    PixArtTransformer2DModel,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from diffusers.models.attention_processor import AttnProcessor
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, T5Config, T5EncoderModel

from benchmarks.gallery.autoencoder import NUM_LATENT_CHANNELS
from benchmarks.gallery.tokenizers import clip_tokenizer, t5_tokenizer
from conceptprune.studio.training.tokenizer import LENGTH, save_old_format

TEXT_WIDTH = 256  # more than there are artists and things together, as in real models
LATENT_SIDE = 16
NOISE: dict[str, Any] = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "prediction_type": "v_prediction",
    "rescale_betas_zero_snr": True,
    "timestep_spacing": "trailing",
    "steps_offset": 1,
    "clip_sample": False,
}


def clip_text_encoder(num_tokens: int, start: int, end: int) -> CLIPTextModel:
    """An untrained, small CLIP text model."""
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=num_tokens,
            hidden_size=TEXT_WIDTH,
            intermediate_size=3 * TEXT_WIDTH,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=LENGTH,
            hidden_act="quick_gelu",
            bos_token_id=start,
            eos_token_id=end,
            pad_token_id=end,
        )
    )


def t5_text_encoder(num_tokens: int) -> T5EncoderModel:
    """An untrained, small T5 encoder."""
    return T5EncoderModel(
        T5Config(
            vocab_size=num_tokens,
            d_model=TEXT_WIDTH,
            d_kv=TEXT_WIDTH // 4,
            d_ff=2 * TEXT_WIDTH,
            num_layers=2,
            num_heads=4,
            feed_forward_proj="gated-gelu",
            dropout_rate=0.0,
            pad_token_id=0,
            eos_token_id=1,
        )
    )


def unet() -> UNet2DConditionModel:
    """An untrained UNet of Stable Diffusion's kind, text at 8 x 8 and 4 x 4: 7.1 M weights."""
    model = UNet2DConditionModel(
        sample_size=LATENT_SIDE,
        in_channels=NUM_LATENT_CHANNELS,
        out_channels=NUM_LATENT_CHANNELS,
        layers_per_block=1,
        block_out_channels=(48, 96, 160),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=TEXT_WIDTH,
        attention_head_dim=4,
        norm_num_groups=16,
    )
    # On a CPU, plain products are a tenth faster than fused attention in the backward pass.
    model.set_attn_processor(AttnProcessor())
    return model.to(memory_format=torch.channels_last)


def transformer() -> PixArtTransformer2DModel:
    """An untrained transformer of PixArt's kind on 64 patches: 3.9 M weights."""
    return PixArtTransformer2DModel(
        sample_size=LATENT_SIDE,
        in_channels=NUM_LATENT_CHANNELS,
        out_channels=NUM_LATENT_CHANNELS,
        patch_size=2,
        num_layers=6,
        num_attention_heads=6,
        attention_head_dim=32,
        cross_attention_dim=192,
        caption_channels=TEXT_WIDTH,
        interpolation_scale=1,
        use_additional_conditions=False,
    )


class Painter(nn.Module, ABC):
    """A text encoder and a denoiser: from noisy latents and token ids to predicted velocities."""

    def __init__(self, tokenizer: Any, text_encoder: nn.Module, denoiser: nn.Module) -> None:
        super().__init__()
        self.tokenizer = tokenizer
        self.text_encoder = text_encoder
        self.denoiser = denoiser

    def token_ids(self, text: str) -> list[int]:
        """A text as LENGTH ids, padded or cut."""
        (ids,) = self.tokens_of([text])
        return ids

    def tokens_of(self, texts: list[str]) -> list[list[int]]:
        """Each text's `token_ids`; of thousands at once it takes a tenth of the time."""
        ids: list[list[int]] = self.tokenizer(
            texts, padding="max_length", max_length=LENGTH, truncation=True
        ).input_ids
        return ids

    @abstractmethod
    def states(self, ids: Tensor) -> Tensor:
        """What the denoiser sees of texts' ids [n, LENGTH]: [n, LENGTH, width]."""

    @abstractmethod
    def pooled(self, ids: Tensor) -> Tensor:
        """One vector per text, [n, width]; only the text encoder's training uses it."""

    @abstractmethod
    def pipeline(self, autoencoder: AutoencoderKL) -> DiffusionPipeline:
        """As a stock pipeline."""

    def save(self, autoencoder: AutoencoderKL, folder: Path) -> None:
        """Write the stock pipeline's folder in float16; `autoencoder` keeps its precision."""
        self.pipeline(copy.deepcopy(autoencoder)).to(torch.float16).save_pretrained(folder)


class UNetPainter(Painter):
    """Stable Diffusion's kind."""

    def __init__(self) -> None:
        words = clip_tokenizer()
        text = clip_text_encoder(len(words), words.bos_token_id, words.eos_token_id)
        super().__init__(words, text, unet())

    def forward(self, noisy: Tensor, times: Tensor, ids: Tensor) -> Tensor:
        """Velocities like `noisy` [n, channels, 16, 16]; times int64 [n], ids int64 [n, LENGTH]."""
        noisy = noisy.contiguous(memory_format=torch.channels_last)
        return self.denoiser(noisy, times, encoder_hidden_states=self.states(ids)).sample

    def states(self, ids: Tensor) -> Tensor:
        """The last layer's, of all tokens, padding too."""
        return self.text_encoder(ids)[0]

    def pooled(self, ids: Tensor) -> Tensor:
        """The state at the end of the text, as CLIP's."""
        return self.text_encoder(ids).pooler_output

    def pipeline(self, autoencoder: AutoencoderKL) -> StableDiffusionPipeline:
        """As a stock pipeline."""
        return StableDiffusionPipeline(
            vae=autoencoder,
            text_encoder=self.text_encoder,
            tokenizer=self.tokenizer,
            unet=self.denoiser,
            scheduler=DDIMScheduler(**NOISE),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )

    def save(self, autoencoder: AutoencoderKL, folder: Path) -> None:
        """As `Painter`, and the tokenizer's files for transformers before version 5."""
        super().save(autoencoder, folder)
        save_old_format(self.tokenizer, folder / "tokenizer")


class TransformerPainter(Painter):
    """PixArt's kind."""

    def __init__(self) -> None:
        words = t5_tokenizer()
        super().__init__(words, t5_text_encoder(len(words)), transformer())

    def forward(self, noisy: Tensor, times: Tensor, ids: Tensor) -> Tensor:
        """Velocities like `noisy` [n, channels, 16, 16]; times int64 [n], ids int64 [n, LENGTH]."""
        return self.denoiser(
            noisy,
            encoder_hidden_states=self.states(ids),
            encoder_attention_mask=self.mask(ids),
            timestep=times,
            added_cond_kwargs={"resolution": None, "aspect_ratio": None},
        ).sample

    def states(self, ids: Tensor) -> Tensor:
        """The last layer's; those of the padding are never looked at."""
        return self.text_encoder(ids, attention_mask=self.mask(ids))[0]

    def pooled(self, ids: Tensor) -> Tensor:
        """The mean state of the text's own tokens."""
        mask = self.mask(ids)
        return (self.states(ids) * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)

    def mask(self, ids: Tensor) -> Tensor:
        """1 where a text's own tokens are, 0 at the padding; int64 like `ids`."""
        return (ids != self.tokenizer.pad_token_id).long()

    def pipeline(self, autoencoder: AutoencoderKL) -> PixArtAlphaPipeline:
        """As a stock pipeline."""
        return PixArtAlphaPipeline(
            vae=autoencoder,
            text_encoder=self.text_encoder,
            tokenizer=self.tokenizer,
            transformer=self.denoiser,
            scheduler=DDIMScheduler(**NOISE),
        )


KINDS: dict[str, Callable[[], UNetPainter | TransformerPainter]] = {
    "unet": UNetPainter,
    "transformer": TransformerPainter,
}
