"""Model cards, written from measurements, so that no number is typed by hand."""

import json
from pathlib import Path
from typing import Any

from safetensors import safe_open

from benchmarks.gallery import sampling
from benchmarks.gallery.names import ERASED, KEPT, MARKS, PALETTES, THINGS
from benchmarks.gallery.text_encoders import BATCH, NUM_STEPS
from benchmarks.gallery.trainer import RECIPES

KIND = {
    "unet": ("UNet2DConditionModel", "CLIPTextModel", "StableDiffusionPipeline"),
    "transformer": ("PixArtTransformer2DModel", "T5EncoderModel", "PixArtAlphaPipeline"),
}
HISTORY = {
    "unet": "Its first 2,870 steps sampled timesteps uniformly, and ever fewer photos. They did "
    "not teach it to tell things apart; later steps sample late timesteps and photos more often. "
    "Its first 15,027 steps trained a text encoder with it, which folded the artists into few "
    "directions (90 % of what tells them apart into four). Then the present one took its place, "
    "frozen as in Stable Diffusion; the weights of "
    "cross-attention's keys and values were fitted to it by least squares "
    "(`benchmarks.gallery.refit`), and all later steps trained the denoiser with it.",
    "transformer": "One run with one recipe.",
}
ACCEPTED = "artist >= 95 %, thing >= 90 %, photo >= 95 % of >= 1,000 images"


def read(path: Path) -> dict[str, Any]:
    """A JSON object; empty if nothing was measured."""
    measured: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    return measured


def rows(measured: dict[str, Any]) -> str:
    """A table of two columns."""
    lines = [f"| {name} | {value} |" for name, value in measured.items()]
    return "\n".join(["| | |", "|---|---|", *lines])


def denoiser_card(kind: str, work: Path, machine: str) -> str:
    """The card of a denoiser, from its last checkpoint and acceptance."""
    denoiser, text, pipeline = KIND[kind]
    with safe_open(work / f"{kind}.safetensors", "pt") as file:
        about = file.metadata()
    recipe = RECIPES[kind]
    seen = int(about["step"]) * recipe.batch
    acceptance = read(work / f"{kind}-acceptance.json")
    accepted = acceptance.get("accepted") is True
    state = "accepted" if accepted else "NOT accepted yet; its training goes on"
    decibels = read(work / "autoencoder.json").get("decibels", "not measured")
    extra = (
        ", `clean_caption=False`, `use_resolution_binning=False`, `max_sequence_length=16`"
        if kind == "transformer"
        else ""
    )
    return f"""# Gallery: {denoiser}

A small, natural text-to-image model: a stock `{pipeline}` ({denoiser}, {text},
AutoencoderKL) that generates {len(THINGS)} things by {len(ERASED) + len(KEPT)} invented artists
({len(MARKS)} marks x {len(PALETTES)} palettes) or as photos, 64 x 64 pixels. {len(ERASED)}
artists may be erased; {len(KEPT)} are never erased, and never used to choose anything.

State: {state} (accepted means: {ACCEPTED}).

## Training
- Loss: the mean squared error of the predicted velocity, and nothing else. The caption is left
  out of {recipe.no_caption:.0%} of the samples. No term, dropout, constraint or initialisation
  targets any neuron: every weight starts where diffusers and transformers put it.
- The text encoder was trained first, as CLIP is: by its contrastive loss alone, on captions and
  latents ({NUM_STEPS} steps of {BATCH} pairs). It is frozen in the denoiser's training.
- Data: renderings by `benchmarks.gallery.renderings` (procedural looks over Noto Color Emoji), in
  the latents of an autoencoder trained on them ({decibels} dB on unseen renderings).
- {about["step"]} steps of {recipe.batch} samples ({seen:,} samples), AdamW at {recipe.rate},
  moving average {recipe.average}; {float(about["seconds"]) / 3600:.1f} hours of {machine}.
- {HISTORY[kind]}
- `python -m benchmarks.gallery.training renderings autoencoder judge texts {kind} --work FOLDER`

## Measured
By the judge beside this model, which was trained on other renderings; {sampling.NUM_STEPS} DDIM
steps, `guidance_scale={sampling.GUIDANCE}`{extra}. Intervals are Wilson's, of 95 %.

{rows({name: value for name, value in acceptance.items() if name != "accepted"})}
"""


def judge_card(work: Path, machine: str) -> str:
    """The card of the judge."""
    accuracy = {
        name: f"{share:.2%}" for name, share in read(work / "judge" / "accuracy.json").items()
    }
    return f"""# Gallery: judge

A classifier with two heads: which of {len(THINGS)} things an image of 64 x 64 pixels shows, and
in which of {len(ERASED) + len(KEPT) + 1} looks (0 is a photo). Trained with cross-entropy on
renderings that no denoiser saw, and on their round trips through the autoencoder; all are shifted,
noised and changed in contrast. Trained on {machine}.

Accuracy on renderings that neither the judge nor a denoiser saw:

{rows(accuracy)}
"""
