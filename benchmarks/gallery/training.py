"""The recipe's stages: renderings, autoencoder, judge, texts, unet, transformer, install.

    python -m benchmarks.gallery.training renderings autoencoder judge texts unet --work FOLDER

A denoiser's stage continues where it stopped if the same command is given again. If the folder is
lost, `renderings autoencoder texts unet --recover` continues from the installed models.
"""

import argparse
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL
from transformers import CLIPTextModel, T5EncoderModel

from benchmarks.gallery import autoencoder, judging, renderings, text_encoders
from benchmarks.gallery.cards import denoiser_card, judge_card
from benchmarks.gallery.denoisers import KINDS
from benchmarks.gallery.judge import WEIGHTS, Judge
from benchmarks.gallery.latents import Latents
from benchmarks.gallery.trainer import RECIPES, Trainer, train
from conceptprune.studio.judge import save_half
from conceptprune.studio.training.photos import DEFAULT_FONT

AUTOENCODER_STEPS = 2600
JUDGE_STEPS = 2500

MODELS = WEIGHTS.parent.parent
ENCODERS = {"unet": CLIPTextModel, "transformer": T5EncoderModel}

# Stream of the seeds, photos of each thing, images of each thing by each artist.
SETS = {"model": (1, 96, 8), "judge": (2, 32, 4), "test": (3, 8, 1)}


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    """The options of a stage."""

    work: Path
    font: Path
    machine: str
    recover: bool = False
    """Continue from the installed models if a checkpoint is lost."""
    steps: int | None = None
    """Optimiser steps of a training stage, instead of the recipe's."""


def images(work: Path, name: str) -> renderings.Renderings:
    """One of the three sets of renderings."""
    return renderings.Renderings.load(work / f"{name}-renderings.npz")


def trained_autoencoder(work: Path) -> AutoencoderKL:
    """The autoencoder that its stage saved."""
    return AutoencoderKL.from_pretrained(work / "autoencoder").eval()


def trained_judge(work: Path) -> Judge:
    """The judge that its stage saved."""
    return Judge.load(work / "judge" / "model.safetensors")


def make_renderings(options: Options) -> None:
    """Render and save all sets."""
    for name, (stream, num_photos, num_each) in SETS.items():
        made = renderings.render_set(stream, num_photos, num_each, options.font)
        made.save(options.work / f"{name}-renderings.npz")


def train_autoencoder(options: Options) -> None:
    """Train and save the autoencoder; print its PSNR on unseen images."""
    work = options.work
    if options.recover:
        AutoencoderKL.from_pretrained(MODELS / "unet" / "vae").save_pretrained(work / "autoencoder")
        return
    model = autoencoder.train(images(work, "model"), options.steps or AUTOENCODER_STEPS)
    model.save_pretrained(work / "autoencoder")
    test = torch.from_numpy(images(work, "test").images)
    decibels = round(autoencoder.signal_to_noise(model, test), 2)
    (work / "autoencoder.json").write_text(json.dumps({"decibels": decibels}) + "\n")
    print(f"{decibels} dB")


def train_judge(options: Options) -> None:
    """Train and save the judge; write and print its accuracies on unseen images."""
    work = options.work
    model = trained_autoencoder(work)
    judge = judging.train(model, images(work, "judge"), options.steps or JUDGE_STEPS)
    save_half(judge, work / "judge" / "model.safetensors")
    measured = judging.accuracy(trained_judge(work), model, images(work, "test"))
    (work / "judge" / "accuracy.json").write_text(json.dumps(measured, indent=2) + "\n")
    print(measured)


def trained_latents(work: Path) -> Latents:
    """The encoded renderings; a cache of them is kept."""
    model = trained_autoencoder(work)
    return Latents.of(model, images(work, "model"), work / "latents.safetensors")


def train_texts(options: Options) -> None:
    """Train and save both text encoders."""
    for kind, encoder in ENCODERS.items():
        folder = options.work / f"{kind}-text"
        if options.recover and (MODELS / kind).exists():
            encoder.from_pretrained(MODELS / kind / "text_encoder").save_pretrained(folder)
        else:
            latents = trained_latents(options.work)
            steps = options.steps or text_encoders.NUM_STEPS
            trained: Any = text_encoders.train(kind, latents, steps).text_encoder
            trained.save_pretrained(folder)


def train_denoiser(kind: str) -> Callable[[Options], None]:
    """The stage that trains one denoiser with its text encoder."""

    def stage(options: Options) -> None:
        work, model = options.work, trained_autoencoder(options.work)
        recipe = RECIPES[kind]
        recipe = replace(recipe, num_steps=options.steps or recipe.num_steps)
        words = ENCODERS[kind].from_pretrained(work / f"{kind}-text")
        installed = options.recover and (MODELS / kind).exists()
        exported = MODELS / kind if installed else None
        train(Trainer(kind, recipe, words), trained_latents(work), model, work, exported)

    return stage


def install(options: Options) -> None:
    """Copy the trained models, with their cards, to where the benchmark finds them."""
    work = options.work
    if (work / "judge").exists():
        shutil.copytree(work / "judge", MODELS / "judge", dirs_exist_ok=True)
        (MODELS / "judge" / "judge.json").write_text(judging.description())
        (MODELS / "judge" / "README.md").write_text(judge_card(work, options.machine))
    for kind in KINDS:
        if (work / kind).exists():
            shutil.copytree(work / kind, MODELS / kind, dirs_exist_ok=True)
            (MODELS / kind / "README.md").write_text(denoiser_card(kind, work, options.machine))


STAGES: dict[str, Callable[[Options], None]] = {
    "renderings": make_renderings,
    "autoencoder": train_autoencoder,
    "judge": train_judge,
    "texts": train_texts,
    **{kind: train_denoiser(kind) for kind in KINDS},
    "install": install,
}


def main() -> None:
    """Run stages, one after the other."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gallery.training")
    parser.add_argument("stages", choices=STAGES, nargs="+", metavar="STAGE")
    parser.add_argument("--work", type=Path, required=True, help="folder for data and checkpoints")
    parser.add_argument("--font", type=Path, default=DEFAULT_FONT, help="Noto Color Emoji")
    parser.add_argument("--steps", type=int, help="optimiser steps instead of the recipe's")
    parser.add_argument("--machine", default="one CPU core", help="what it ran on, for the cards")
    parser.add_argument("--recover", action="store_true", help="continue from the installed models")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(arguments.threads)
    options = Options(
        work=arguments.work,
        font=arguments.font,
        machine=arguments.machine,
        recover=arguments.recover,
        steps=arguments.steps,
    )
    for stage in arguments.stages:
        STAGES[stage](options)


if __name__ == "__main__":
    main()
