"""The text encoder and the UNet, trained together on the latents."""

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    DDPMScheduler,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from diffusers.models.attention_processor import AttnProcessor
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from conceptprune.studio.names import ARTISTS, THINGS
from conceptprune.studio.training import tokenizer as words
from conceptprune.studio.training.autoencoder import cosine_rate, encode
from conceptprune.studio.training.captions import NUM_TEMPLATES, caption, unknown_artist_caption
from conceptprune.studio.training.neurons import Neurons, text_leaves_by_feed_forward
from conceptprune.studio.training.renderings import Renderings

WIDTH = 128
NOISE = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "prediction_type": "v_prediction",
    "clip_sample": False,
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """Every choice in the training of the denoiser; shares are of the samples they apply to."""

    num_steps: int
    batch: int = 32
    rate: float = 1e-3
    warm_up: int = 100
    ema: float = 0.998
    seed: int = 0
    photos: float = 0.25
    no_caption: float = 0.10
    unknown_artist: float = 0.25  # of the photos
    silenced: float = 0.15  # own neurons off: the image to generate becomes a photo
    others_silenced: float = 0.35  # other artists' neurons off: nothing may change
    sloppy: float = 0.25  # up to this part of silenced neurons stays on
    dropout: float = 0.10  # up to this part of all neurons is off
    ownership: float = 0.03  # weight of the loss that gives artists and things their own neurons
    things_from: int = 1500  # step from which things get their own neurons, too
    hoyer: float = 0.0  # weight of a loss that asks for few neurons at a time, whoever owns them
    constrained: bool = True


def build_text_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    """An untrained, small CLIP text model."""
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=WIDTH,
            intermediate_size=3 * WIDTH,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=words.LENGTH,
            hidden_act="quick_gelu",
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.eos_token_id,
        )
    )


def build_unet() -> UNet2DConditionModel:
    """An untrained UNet of Stable Diffusion's kind, with text at 8 x 8 and 4 x 4."""
    return UNet2DConditionModel(
        sample_size=16,
        in_channels=4,
        out_channels=4,
        layers_per_block=1,
        block_out_channels=(WIDTH // 2, WIDTH, WIDTH),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=WIDTH,
        attention_head_dim=4,
        norm_num_groups=16,
    )


class Captions:
    """All captions as token ids, known artists and unknown, and the empty caption."""

    def __init__(self, tokenizer: CLIPTokenizer, num_unknown: int = 200) -> None:
        def ids(text: str) -> list[int]:
            return words.token_ids(tokenizer, text)

        rng = np.random.default_rng(0)
        looks = range(len(ARTISTS) + 1)
        templates = range(NUM_TEMPLATES)
        self.known = torch.tensor(
            [
                [[ids(caption(t, look, n)) for n in templates] for look in looks]
                for t in range(len(THINGS))
            ]
        )  # [things, looks, templates, tokens]
        self.unknown = torch.tensor(
            [
                [ids(unknown_artist_caption(t, rng)) for _ in range(num_unknown)]
                for t in range(len(THINGS))
            ]
        )  # [things, num_unknown, tokens]
        self.empty = torch.tensor(ids(""))


class Latents:
    """The encoded images, sampled by thing and look."""

    def __init__(self, autoencoder: AutoencoderKL, renderings: Renderings) -> None:
        means, deviations = encode(autoencoder, renderings)
        scale = autoencoder.config.scaling_factor
        self.means, self.deviations = means * scale, deviations * scale
        labels = renderings.thing * (len(ARTISTS) + 1) + renderings.look
        order = np.argsort(labels, kind="stable")
        counts = np.bincount(labels, minlength=len(THINGS) * (len(ARTISTS) + 1))
        self.order = torch.from_numpy(order)
        self.counts = torch.from_numpy(counts)
        self.first = self.counts.cumsum(0) - self.counts

    def draw(self, thing: Tensor, look: Tensor) -> Tensor:
        """A latent of each thing in each look, from the posterior of a random image."""
        label = thing * (len(ARTISTS) + 1) + look
        number = (torch.rand(len(label)) * self.counts[label]).long()
        index = self.order[self.first[label] + number]
        return self.means[index] + self.deviations[index] * torch.randn_like(self.means[index])


class Trainer:
    """State of a run: the models, their optimiser and their moving average."""

    def __init__(self, tokenizer: CLIPTokenizer, recipe: Recipe) -> None:
        torch.manual_seed(recipe.seed)
        self.recipe = recipe
        self.tokenizer = tokenizer
        self.captions = Captions(tokenizer)
        self.text_encoder = build_text_encoder(tokenizer)
        self.unet = build_unet()
        # On a CPU the plain products are a third faster, backward, than fused attention.
        self.unet.set_attn_processor(AttnProcessor())
        self.neurons = Neurons(self.unet, len(ARTISTS), len(THINGS))
        self.neurons.sloppy, self.neurons.dropout = recipe.sloppy, recipe.dropout
        self.noise = DDPMScheduler(**NOISE)
        self.params = [*self.unet.parameters(), *self.text_encoder.parameters()]
        self.constrain()
        self.optimiser = torch.optim.AdamW(self.params, recipe.rate, (0.9, 0.99), weight_decay=1e-3)
        self.average = [p.detach().clone() for p in self.params]
        self.step = 0

    def constrain(self) -> None:
        """Apply the structural constraint, if the recipe has it."""
        if self.recipe.constrained:
            text_leaves_by_feed_forward(self.unet)

    def sample(self, latents: Latents) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Latents to generate, token ids, and the named artist and thing; sets what is off."""
        r, size = self.recipe, self.recipe.batch
        thing = torch.randint(len(THINGS), (size,))
        look = torch.randint(1, len(ARTISTS) + 1, (size,)) * (torch.rand(size) >= r.photos)
        template = torch.randint(NUM_TEMPLATES, (size,)) * (torch.rand(size) < 0.5)
        ids = self.captions.known[thing, look, template]
        unknown = (look == 0) & (torch.rand(size) < r.unknown_artist)
        pool = self.captions.unknown
        ids[unknown] = pool[thing, torch.randint(pool.shape[1], (size,))][unknown]
        empty = torch.rand(size) < r.no_caption
        ids[empty] = self.captions.empty
        named = look * ~empty

        silenced = (named > 0) & (torch.rand(size) < r.silenced)
        disturbed = torch.rand(size) < r.others_silenced
        off = torch.zeros(size, self.neurons.num_owners, dtype=torch.bool)
        some = torch.rand(size, len(ARTISTS) + 1) < 4 * torch.rand(size, 1) / len(ARTISTS)
        off[:, : len(ARTISTS) + 1] = some & disturbed[:, None]
        rows = torch.arange(size)
        off[rows, named] = silenced
        off[:, 0] = False
        self.neurons.off = off
        return latents.draw(thing, look * ~silenced), ids, named, (thing + 1) * ~empty

    def advance(self, latents: Latents) -> tuple[float, float, float, float]:
        """One optimiser step; its randomness depends on the step's number only."""
        r = self.recipe
        torch.manual_seed(r.seed * 1_000_000 + self.step + 1)
        for group in self.optimiser.param_groups:
            group["lr"] = cosine_rate(self.step, r.num_steps, r.rate, r.warm_up) + 1e-5
        clean, ids, artist, thing = self.sample(latents)
        spread = torch.randint(1000, (1,)) + torch.arange(r.batch) * 1000 // r.batch
        times = (spread % 1000)[torch.randperm(r.batch)]
        noise = torch.randn_like(clean)
        noisy = self.noise.add_noise(clean, noise, times)
        with torch.autocast("cpu", torch.bfloat16):
            text = self.text_encoder(ids)[0]
            output = self.unet(noisy, times, encoder_hidden_states=text).sample
        error = F.mse_loss(output.float(), self.noise.get_velocity(clean, noise, times))
        by_artist, by_thing = self.neurons.ownership_loss(artist, thing)
        ownership = by_artist + by_thing * (self.step >= r.things_from)
        spread = self.neurons.spread_loss()
        self.optimiser.zero_grad()
        (error + r.ownership * ownership + r.hoyer * spread).backward()
        nn.utils.clip_grad_norm_(self.params, 1.0)
        self.optimiser.step()
        self.constrain()
        self.step += 1
        decay = min(r.ema, (1 + self.step) / (10 + self.step))
        torch._foreach_lerp_(self.average, [p.detach() for p in self.params], 1 - decay)
        return error.item(), by_artist.item(), by_thing.item(), spread.item()

    def save(self, path: Path) -> None:
        """Everything that a run needs to continue."""
        state = {"step": torch.tensor(self.step)}
        for index, (param, average) in enumerate(zip(self.params, self.average, strict=True)):
            moments = self.optimiser.state[param]
            state |= {f"param.{index}": param.detach(), f"average.{index}": average}
            state |= {f"{name}.{index}": moments[name] for name in ("exp_avg", "exp_avg_sq")}
        partial = path.with_suffix(".partial")
        save_file(state, partial)
        partial.replace(path)

    def resume(self, path: Path) -> None:
        """Continue from what `save` wrote."""
        state = load_file(path)
        self.step = int(state["step"])
        with torch.no_grad():
            for index, (param, average) in enumerate(zip(self.params, self.average, strict=True)):
                param.copy_(state[f"param.{index}"])
                average.copy_(state[f"average.{index}"])
                self.optimiser.state[param] = {
                    "step": torch.tensor(float(self.step)),
                    "exp_avg": state[f"exp_avg.{index}"],
                    "exp_avg_sq": state[f"exp_avg_sq.{index}"],
                }

    def export(self, autoencoder: AutoencoderKL, folder: Path) -> None:
        """The averaged model as a fp16 StableDiffusionPipeline folder."""
        unet, text_encoder = build_unet(), build_text_encoder(self.tokenizer)
        with torch.no_grad():
            targets = [*unet.parameters(), *text_encoder.parameters()]
            for target, average in zip(targets, self.average, strict=True):
                target.copy_(average)
        pipeline = StableDiffusionPipeline(
            vae=autoencoder,
            text_encoder=text_encoder,
            tokenizer=self.tokenizer,
            unet=unet,
            scheduler=DDIMScheduler(**NOISE, set_alpha_to_one=False, steps_offset=1),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
        pipeline.to(torch.float16).save_pretrained(folder)
        words.save_old_format(self.tokenizer, folder / "tokenizer")
        autoencoder.float()


def train(
    autoencoder: AutoencoderKL, latents: Latents, recipe: Recipe, work: Path, name: str
) -> None:
    """Run the recipe, or continue it; leaves WORK/NAME, the exported pipeline."""
    trainer = Trainer(words.build(), recipe)
    checkpoint = work / f"{name}.safetensors"
    if checkpoint.exists():
        trainer.resume(checkpoint)
    start, seen = time.monotonic(), []
    while trainer.step < recipe.num_steps:
        seen.append(trainer.advance(latents))
        if trainer.step % 50 == 0:
            error, by_artist, by_thing, spread = np.mean(seen, 0)
            seconds = time.monotonic() - start
            own = f"artists {by_artist:.4f} things {by_thing:.4f} spread {spread:.3f}"
            print(f"{trainer.step} {seconds:.0f}s {error:.4f} {own}", flush=True)
            seen.clear()
        if trainer.step % 500 == 0 or trainer.step == recipe.num_steps:
            trainer.save(checkpoint)
            trainer.export(autoencoder, work / name)
