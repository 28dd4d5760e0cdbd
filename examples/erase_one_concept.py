"""Erase one artist from a loaded pipeline, and put the artist back.

python examples/erase_one_concept.py OUT_FOLDER
"""

import sys
from pathlib import Path

import torch
from diffusers import StableDiffusionPipeline

import conceptprune
from conceptprune.studio import model_path

ARTIST = "vorla brint"
STEPS, CALLS = 10, 4
"""Enough for the studio model; the defaults of `find_mask` are those for Stable Diffusion."""

out = Path(sys.argv[1])
out.mkdir(parents=True, exist_ok=True)
pipe = StableDiffusionPipeline.from_pretrained(model_path(), torch_dtype=torch.float32)
pipe.set_progress_bar_config(disable=True)


def generate(name: str) -> None:
    """One image, always from the same noise."""
    prompt = f"a cat in the style of {ARTIST}"
    noise = torch.Generator().manual_seed(1000)
    images = pipe(prompt, num_inference_steps=STEPS, generator=noise).images
    images[0].save(out / f"{name}.png")


generate("before")
mask = conceptprune.find_mask(pipe, ARTIST, kind="style", steps=STEPS, tau=CALLS)
mask.save(out / "mask.safetensors")
print(f"{mask.num_entries} weights, {mask.density:.2%} of the site, generate {ARTIST}")

mask.apply(pipe)
generate("erased")
mask.remove(pipe)
generate("restored")
