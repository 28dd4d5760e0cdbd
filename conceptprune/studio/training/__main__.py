"""Stages of the recipe, in order: renderings, autoencoder, judge, denoiser, acceptance, install."""

import argparse
import shutil
from collections.abc import Callable
from pathlib import Path

import torch
from diffusers import AutoencoderKL

from conceptprune.studio import model_path
from conceptprune.studio.judge import WEIGHTS as JUDGE_WEIGHTS
from conceptprune.studio.judge import Judge
from conceptprune.studio.training import autoencoder, denoiser, judging, renderings, report
from conceptprune.studio.training.photos import DEFAULT_FONT

AUTOENCODER_STEPS = 1600
JUDGE_STEPS = 1500
DENOISER = denoiser.Recipe(num_steps=5400)

SETS = {
    "model": (renderings.STREAM_MODEL, 240, 60),
    "judge": (renderings.STREAM_JUDGE, 80, 40),
    "test": (renderings.STREAM_TEST, 8, 4),
}


def pictures(work: Path, name: str) -> renderings.Renderings:
    """One of the three sets of renderings."""
    return renderings.load(work / f"{name}-pictures.npz")


def trained_autoencoder(work: Path) -> AutoencoderKL:
    """What the autoencoder stage left."""
    return AutoencoderKL.from_pretrained(work / "autoencoder").eval()


def make_renderings(work: Path, font: Path) -> None:
    """Draw all sets."""
    for name, (stream, num_photos, num_each) in SETS.items():
        made = renderings.render_set(stream, num_photos, num_each, font)
        renderings.save(made, work / f"{name}-pictures.npz")


def train_autoencoder(work: Path, _font: Path) -> None:
    """Train and save the autoencoder; print its PSNR on unseen pictures."""
    model = autoencoder.train(pictures(work, "model"), AUTOENCODER_STEPS, work / "autoencoder")
    print(f"{autoencoder.signal_to_noise(model, pictures(work, 'test')):.2f} dB")


def train_judge(work: Path, _font: Path) -> None:
    """Train and save the judge; print its accuracies on unseen pictures."""
    model = trained_autoencoder(work)
    judge = judging.train(model, pictures(work, "judge"), JUDGE_STEPS)
    judge.save(work / "judge" / JUDGE_WEIGHTS.name)
    print(judging.accuracy(judge, model, pictures(work, "test")))


def train_denoiser(work: Path, _font: Path) -> None:
    """Train the text encoder and UNet, or go on from the last checkpoint."""
    model = trained_autoencoder(work)
    denoiser.train(model, pictures(work, "model"), DENOISER, work, "pipeline")


def measure(work: Path, _font: Path) -> None:
    """Measure the trained pipeline."""
    report.measure(work / "pipeline", Judge.load(work / "judge" / JUDGE_WEIGHTS.name), work)


def install(work: Path, _font: Path) -> None:
    """Put the trained weights where the package ships them."""
    shutil.copytree(work / "pipeline", model_path(), dirs_exist_ok=True)
    JUDGE_WEIGHTS.parent.mkdir(exist_ok=True)
    shutil.copy(work / "judge" / JUDGE_WEIGHTS.name, JUDGE_WEIGHTS)


STAGES: dict[str, Callable[[Path, Path], None]] = {
    "renderings": make_renderings,
    "autoencoder": train_autoencoder,
    "judge": train_judge,
    "denoiser": train_denoiser,
    "acceptance": measure,
    "install": install,
}


def main() -> None:
    """Run one stage."""
    parser = argparse.ArgumentParser(prog="python -m conceptprune.studio.training")
    parser.add_argument("stage", choices=STAGES)
    parser.add_argument("--work", type=Path, required=True, help="folder for data and checkpoints")
    parser.add_argument("--font", type=Path, default=DEFAULT_FONT, help="Noto Color Emoji")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(arguments.threads)
    STAGES[arguments.stage](arguments.work, arguments.font)


if __name__ == "__main__":
    main()
