"""A denoiser's training: the plain denoising loss, sometimes without a caption; nothing more."""

import copy
import json
import signal
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, DDPMScheduler, DiffusionPipeline
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from benchmarks.gallery.denoisers import KINDS, NOISE
from benchmarks.gallery.latents import Latents, captions_as_ids
from benchmarks.gallery.names import NUM_LOOKS, THINGS
from benchmarks.gallery.refit import refit
from conceptprune.studio.training.captions import NUM_TEMPLATES

ABOUT = "training.json"
"""In an exported folder: the steps and seconds that training took."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """Every choice in the training of a denoiser."""

    num_steps: int
    batch: int = 16
    rate: float = 1e-3
    warm_up: int = 300
    cool_down: int = 2000
    """Steps at the end over which the rate falls to zero."""
    average: float = 0.998
    """The exported weights are a moving average with this decay."""
    seed: int = 0
    photos: tuple[tuple[int, float], ...] = ((0, 0.6), (3000, 0.6), (5000, 0.15))
    """(step, share of photos), linear in between: things are learned first."""
    no_caption: float = 0.1


RECIPES = {
    # Its first 2,870 steps sampled timesteps uniformly, and ever fewer photos: that taught it to
    # tell artists apart, but not things.
    "unet": Recipe(
        num_steps=30_000,
        photos=((0, 0.5), (2870, 0.25), (2871, 0.6), (4000, 0.6), (5500, 0.15)),
    ),
    "transformer": Recipe(num_steps=40_000),
}


def spread_times(size: int, steps: int) -> Tensor:
    """Timesteps int64 [size], twice as likely at twice the time, because what a caption says is
    decided at high noise. Spread evenly over that distribution, in random order."""
    quantiles = (torch.arange(size) + torch.rand(size)) / size
    return (quantiles.sqrt() * steps).long().clamp(max=steps - 1)[torch.randperm(size)]


def denoising_loss(painter: nn.Module, noise: DDPMScheduler, clean: Tensor, ids: Tensor) -> Tensor:
    """The whole loss: the mean squared error of the velocity at random timesteps.

    `clean` are scaled latents [n, channels, 16, 16], `ids` their captions' tokens [n, tokens].
    """
    times = spread_times(len(clean), noise.config.num_train_timesteps)
    added = torch.randn_like(clean)
    predicted = painter(noise.add_noise(clean, added, times), times, ids)
    return F.mse_loss(predicted, noise.get_velocity(clean, added, times))


def same_weights(one: nn.Module, other: nn.Module) -> bool:
    """Whether two modules of one kind have the same weights, as float16 has them."""
    theirs = other.state_dict()
    return all(
        torch.allclose(t, theirs[n], rtol=1e-2, atol=1e-3) for n, t in one.state_dict().items()
    )


class Trainer:
    """State of a run: the models, their optimiser and their moving average."""

    def __init__(self, kind: str, recipe: Recipe, text_encoder: nn.Module | None = None) -> None:
        """With a trained text encoder, or an untrained one; neither is trained here."""
        torch.manual_seed(recipe.seed)
        self.kind, self.recipe = kind, recipe
        self.painter = KINDS[kind]()
        if text_encoder is not None:
            self.painter.text_encoder = text_encoder
        self.painter.text_encoder.eval().requires_grad_(False)
        self.ids = captions_as_ids(self.painter)
        self.empty = torch.tensor(self.painter.token_ids(""))
        self.noise = DDPMScheduler(**NOISE)
        self.parameters = list(self.painter.denoiser.parameters())
        self.optimiser = torch.optim.AdamW(
            self.parameters, recipe.rate, (0.9, 0.99), weight_decay=1e-3, fused=True
        )
        self.average = [p.detach().clone() for p in self.parameters]
        self.step = 0
        self.begun = 0
        """The step at which Adam's moments were zero."""
        self.seconds = 0.0

    def rate(self) -> float:
        """This step's learning rate: up, level, and down at the end."""
        r = self.recipe
        rise = min(1.0, (self.step - self.begun + 1) / r.warm_up)
        fall = min(1.0, (r.num_steps - self.step) / r.cool_down)
        return r.rate * rise * fall

    def sample(self, latents: Latents) -> tuple[Tensor, Tensor]:
        """A batch of latents and their captions' tokens."""
        r = self.recipe
        steps, shares = zip(*r.photos, strict=True)
        share = float(np.interp(self.step, steps, shares))
        thing = torch.randint(len(THINGS), (r.batch,))
        look = torch.randint(1, NUM_LOOKS, (r.batch,)) * (torch.rand(r.batch) >= share)
        template = torch.randint(NUM_TEMPLATES, (r.batch,)) * (torch.rand(r.batch) < 0.5)
        ids = self.ids[thing, look, template]
        ids[torch.rand(r.batch) < r.no_caption] = self.empty
        return latents.draw(thing, look), ids

    def advance(self, latents: Latents) -> float:
        """One optimiser step; its randomness depends on the seed and the step's number only."""
        begun = time.monotonic()
        torch.manual_seed(self.recipe.seed * 1_000_000 + self.step + 1)
        for group in self.optimiser.param_groups:
            group["lr"] = self.rate()
        clean, ids = self.sample(latents)
        loss = denoising_loss(self.painter, self.noise, clean, ids)
        self.optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimiser.step()
        self.step += 1
        decay = min(self.recipe.average, (1 + self.step) / (10 + self.step))
        torch._foreach_lerp_(self.average, [p.detach() for p in self.parameters], 1 - decay)
        self.seconds += time.monotonic() - begun
        return loss.item()

    def save(self, path: Path) -> None:
        """Write everything a run needs to continue, in one file that is whole or absent."""
        state: dict[str, Tensor] = {}
        for index, (parameter, average) in enumerate(
            zip(self.parameters, self.average, strict=True)
        ):
            moments = self.optimiser.state[parameter]
            state |= {f"parameter.{index}": parameter.detach(), f"average.{index}": average}
            state |= {f"{name}.{index}": moments[name] for name in ("exp_avg", "exp_avg_sq")}
        state = {name: tensor.contiguous() for name, tensor in state.items()}
        recipe = {name: str(value) for name, value in asdict(self.recipe).items()}
        about = {"kind": self.kind, "step": str(self.step), "seconds": str(self.seconds)}
        partial = path.with_suffix(".partial")
        save_file(state, partial, metadata=about | recipe)
        partial.replace(path)

    def resume(self, path: Path) -> None:
        """Continue from what `save` wrote."""
        with safe_open(path, "pt") as file:
            about = file.metadata()
        state = load_file(path)
        self.step, self.seconds = int(about["step"]), float(about["seconds"])
        with torch.no_grad():
            for index, (parameter, average) in enumerate(
                zip(self.parameters, self.average, strict=True)
            ):
                parameter.copy_(state[f"parameter.{index}"])
                average.copy_(state[f"average.{index}"])
                self.optimiser.state[parameter] = {
                    "step": torch.tensor(float(self.step)),
                    **{
                        name: torch.empty_like(parameter).copy_(state[f"{name}.{index}"])
                        for name in ("exp_avg", "exp_avg_sq")
                    },
                }

    def recover(self, folder: Path) -> None:
        """Continue from an exported pipeline if the checkpoint is lost, without Adam's moments.

        If its text encoder was another one, the new one's keys and values are made near its own.
        """
        pipeline = DiffusionPipeline.from_pretrained(folder, torch_dtype=torch.float32)
        denoiser = getattr(pipeline, "unet", None) or pipeline.transformer
        self.painter.denoiser.load_state_dict(denoiser.state_dict())
        if not same_weights(pipeline.text_encoder, self.painter.text_encoder):
            own, ids = self.painter.text_encoder, self.ids.flatten(0, -2)
            with torch.no_grad():
                after = self.painter.states(ids).flatten(0, 1)
                self.painter.text_encoder = pipeline.text_encoder
                before = self.painter.states(ids).flatten(0, 1)
            self.painter.text_encoder = own
            refit(self.painter.denoiser, before, after)
        self.average = [p.detach().clone() for p in self.parameters]
        about = json.loads((folder / ABOUT).read_text())
        self.step, self.seconds = about["step"], about["seconds"]
        self.begun = self.step

    def export(self, autoencoder: AutoencoderKL, folder: Path) -> None:
        """Write the averaged weights as a stock pipeline in float16."""
        # A copy, so that the tokenizer is the one whose ids were trained.
        painter = copy.deepcopy(self.painter)
        with torch.no_grad():
            for target, average in zip(painter.denoiser.parameters(), self.average, strict=True):
                target.copy_(average)
        painter.save(autoencoder, folder)
        about = {"step": self.step, "seconds": round(self.seconds)}
        (folder / ABOUT).write_text(json.dumps(about) + "\n")


def train(
    trainer: Trainer,
    latents: Latents,
    autoencoder: AutoencoderKL,
    work: Path,
    exported: Path | None = None,
    save_every: float = 300.0,
) -> None:
    """Run the recipe, or continue it; leaves the exported pipeline in WORK/KIND.

    Without a checkpoint it continues from the pipeline in `exported`, if that is given. On SIGTERM
    it saves after the current step and returns.
    """
    told: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _frame: told.append(number))
    checkpoint = work / f"{trainer.kind}.safetensors"
    if checkpoint.exists():
        trainer.resume(checkpoint)
    elif exported is not None:
        trainer.recover(exported)
    seen: list[float] = []
    saved = time.monotonic()
    while trainer.step < trainer.recipe.num_steps and not told:
        seen.append(trainer.advance(latents))
        if trainer.step % 50 == 0:
            mean = sum(seen) / len(seen)
            print(f"{trainer.step} {trainer.seconds:.0f}s {mean:.4f}", flush=True)
            seen.clear()
        ends = trainer.step == trainer.recipe.num_steps or bool(told)
        if ends or time.monotonic() - saved > save_every:
            trainer.save(checkpoint)
            trainer.export(autoencoder, work / trainer.kind)
            saved = time.monotonic()
