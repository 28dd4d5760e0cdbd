"""Stages of the recipe, in order: renderings, autoencoder, judge, denoiser, acceptance, install.

In addition, `ablation` trains and measures short runs that leave out parts of the recipe.
"""

import argparse
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from diffusers import AutoencoderKL

from conceptprune.studio import model_path
from conceptprune.studio.judge import WEIGHTS as JUDGE_WEIGHTS
from conceptprune.studio.judge import Judge, save_half
from conceptprune.studio.training import (
    ablation,
    autoencoder,
    denoiser,
    judging,
    renderings,
    report,
)
from conceptprune.studio.training.photos import DEFAULT_FONT

AUTOENCODER_STEPS = 1600
JUDGE_STEPS = 1500
DENOISER = denoiser.Recipe(num_steps=5400)
ABLATION_STEPS = 1000

SETS = {
    "model": (renderings.STREAM_MODEL, 240, 60),
    "judge": (renderings.STREAM_JUDGE, 80, 40),
    "test": (renderings.STREAM_TEST, 8, 4),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    """Options of a stage."""

    work: Path
    font: Path
    steps: int | None = None
    """Optimiser steps for a training stage, instead of the recipe's."""


def images(work: Path, name: str) -> renderings.Renderings:
    """One of the three sets of renderings."""
    return renderings.load(work / f"{name}-images.npz")


def trained_autoencoder(work: Path) -> AutoencoderKL:
    """The result of the autoencoder stage."""
    return AutoencoderKL.from_pretrained(work / "autoencoder").eval()


def trained_judge(work: Path) -> Judge:
    """The result of the judge stage."""
    return Judge.load(work / "judge" / JUDGE_WEIGHTS.name)


def make_renderings(options: Options) -> None:
    """Generate all sets."""
    for name, (stream, num_photos, num_each) in SETS.items():
        made = renderings.render_set(stream, num_photos, num_each, options.font)
        renderings.save(made, options.work / f"{name}-images.npz")


def train_autoencoder(options: Options) -> None:
    """Train and save the autoencoder; print its PSNR on unseen images."""
    work = options.work
    steps = options.steps or AUTOENCODER_STEPS
    model = autoencoder.train(images(work, "model"), steps, work / "autoencoder")
    print(f"{autoencoder.signal_to_noise(model, images(work, 'test')):.2f} dB")


def train_judge(options: Options) -> None:
    """Train and save the judge; print its accuracies on unseen images."""
    work = options.work
    model = trained_autoencoder(work)
    judge = judging.train(model, images(work, "judge"), options.steps or JUDGE_STEPS)
    save_half(judge, work / "judge" / JUDGE_WEIGHTS.name)
    print(judging.accuracy(judge, model, images(work, "test")))


def train_denoiser(options: Options) -> None:
    """Train the text encoder and UNet, or continue from the last checkpoint."""
    work, model = options.work, trained_autoencoder(options.work)
    recipe = shortened(options.steps or DENOISER.num_steps)
    latents = denoiser.Latents(model, images(work, "model"))
    denoiser.train(model, latents, recipe, work, "pipeline")


def shortened(num_steps: int) -> denoiser.Recipe:
    """The recipe with another number of steps; what starts midway starts at the same fraction."""
    things_from = DENOISER.things_from * num_steps // DENOISER.num_steps
    return replace(DENOISER, num_steps=num_steps, things_from=things_from)


def measure(options: Options) -> None:
    """Measure the trained pipeline."""
    report.measure(options.work / "pipeline", trained_judge(options.work), options.work)


def ablate(options: Options) -> None:
    """Train and measure the recipe with some parts left out."""
    work, model = options.work, trained_autoencoder(options.work)
    latents = denoiser.Latents(model, images(work, "model"))
    full = shortened(options.steps or ABLATION_STEPS)
    ablation.run(model, latents, trained_judge(work), full, work)


def install(options: Options) -> None:
    """Put the trained weights where the package ships them."""
    shutil.copytree(options.work / "pipeline", model_path(), dirs_exist_ok=True)
    JUDGE_WEIGHTS.parent.mkdir(exist_ok=True)
    shutil.copy(options.work / "judge" / JUDGE_WEIGHTS.name, JUDGE_WEIGHTS)


STAGES: dict[str, Callable[[Options], None]] = {
    "renderings": make_renderings,
    "autoencoder": train_autoencoder,
    "judge": train_judge,
    "denoiser": train_denoiser,
    "acceptance": measure,
    "install": install,
    "ablation": ablate,
}


def main() -> None:
    """Run stages, one after the other."""
    parser = argparse.ArgumentParser(prog="python -m conceptprune.studio.training")
    parser.add_argument("stages", choices=STAGES, nargs="+", metavar="STAGE")
    parser.add_argument("--work", type=Path, required=True, help="folder for data and checkpoints")
    parser.add_argument("--font", type=Path, default=DEFAULT_FONT, help="Noto Color Emoji")
    parser.add_argument("--steps", type=int, help="optimiser steps instead of the recipe's")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(arguments.threads)
    options = Options(work=arguments.work, font=arguments.font, steps=arguments.steps)
    for stage in arguments.stages:
        STAGES[stage](options)


if __name__ == "__main__":
    main()
