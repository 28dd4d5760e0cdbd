"""Does a trained pipeline generate what is asked? Judged whole, and without its feed-forwards.

python -m benchmarks.gallery.acceptance --work FOLDER --kind unet [--each 8] [--photos 16]
"""

import argparse
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import DiffusionPipeline
from numpy.typing import NDArray
from torch import nn

from benchmarks.gallery import sampling
from benchmarks.gallery.captions import caption
from benchmarks.gallery.denoisers import KINDS
from benchmarks.gallery.judge import Judge
from benchmarks.gallery.names import ARTISTS, NUM_LOOKS, THINGS
from conceptprune.evaluation.bootstrap import wilson

LEAST = {"artist": 0.95, "thing": 0.90, "photo": 0.95}
"""The smallest shares at which a model is accepted."""

Asked = list[tuple[int, int, int]]
"""(thing, look, seed) of every image."""


def questions(each: int, photos: int) -> Asked:
    """`each` images by every artist, of things in rotation, and `photos` photos of every thing."""
    things = len(THINGS)
    by_artists = [
        ((look + number * 5) % things, look, 1000 * number + look)
        for look in range(1, NUM_LOOKS)
        for number in range(each)
    ]
    return by_artists + [
        (thing, 0, 500_000 + 100 * thing + number)
        for thing in range(things)
        for number in range(photos)
    ]


@dataclass(frozen=True, slots=True)
class Share:
    """Hits among images, with their 95 % Wilson interval."""

    hits: int
    images: int

    @property
    def interval(self) -> tuple[float, float]:
        """Lower and upper end, in 0..1."""
        return wilson(self.hits, self.images)

    def __str__(self) -> str:
        low, high = self.interval
        return f"{self.hits / self.images:.1%} ({low:.1%} to {high:.1%}) of {self.images}"


@dataclass(frozen=True, slots=True)
class Answers:
    """What was asked for and what was seen, int64 [n] each."""

    thing: NDArray[np.int64]
    look: NDArray[np.int64]
    seen_thing: NDArray[np.int64]
    seen_look: NDArray[np.int64]

    def shares(self) -> dict[str, Share]:
        """Artist and thing seen in the artists' images; thing, and no artist, seen in photos."""

        def share(right: NDArray[np.bool_], among: NDArray[np.bool_]) -> Share:
            return Share(int(right[among].sum()), int(among.sum()))

        photo = self.look == 0
        thing, look = self.seen_thing == self.thing, self.seen_look == self.look
        measured = {"artist": share(look, ~photo), "thing": share(thing, ~photo)}
        if photo.any():
            measured |= {"photo": share(look, photo), "thing in photo": share(thing, photo)}
        return measured

    def by_palette_and_mark(self) -> dict[str, float]:
        """Shares of the artists' images in which at least the mark, or the palette, is right."""
        drawn = (self.look > 0) & (self.seen_look > 0)
        asked = [ARTISTS[i - 1] for i in self.look[drawn]]
        seen = [ARTISTS[i - 1] for i in self.seen_look[drawn]]
        total = max(1, int((self.look > 0).sum()))
        return {
            name: sum(
                getattr(a, name) == getattr(s, name) for a, s in zip(asked, seen, strict=True)
            )
            / total
            for name in ("mark", "palette")
        }


def accepted(shares: dict[str, Share]) -> bool:
    """Whether there are enough images, and enough of them show what was asked for."""
    enough = shares["artist"].images >= 1000
    return enough and all(
        name in shares and shares[name].hits >= least * shares[name].images
        for name, least in LEAST.items()
    )


def ask(pipeline: DiffusionPipeline, judge: Judge, asked: Asked) -> Answers:
    """Generate and judge."""
    prompts = [caption(thing, look) for thing, look, _ in asked]
    seen = judge.verdicts(sampling.generate(pipeline, prompts, [seed for _, _, seed in asked]))
    thing, look, _ = np.array(asked).T
    return Answers(thing, look, seen.thing, seen.look)


@contextmanager
def without_feed_forwards(pipeline: DiffusionPipeline) -> Iterator[None]:
    """The pipeline with every `ff.net.2` of its denoiser at zero; restored afterwards."""
    denoiser = getattr(pipeline, "unet", None) or pipeline.transformer
    layers = [m for n, m in denoiser.named_modules() if n.endswith("ff.net.2")]
    before = [{n: p.detach().clone() for n, p in m.named_parameters()} for m in layers]
    with torch.no_grad():
        for layer in layers:
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
    try:
        yield
    finally:
        for layer, state in zip(layers, before, strict=True):
            layer.load_state_dict(state)


def main() -> None:
    """Measure, print, and write FOLDER/KIND-acceptance.json."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gallery.acceptance")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--kind", choices=KINDS, required=True)
    parser.add_argument("--each", type=int, default=8, help="images by each artist")
    parser.add_argument("--photos", type=int, default=16, help="photos of each thing")
    parser.add_argument("--whole-only", action="store_true", help="skip the zeroed site")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    pipeline = sampling.load(arguments.work / arguments.kind)
    judge = Judge.load(arguments.work / "judge" / "model.safetensors")
    asked = questions(arguments.each, arguments.photos)
    start = time.monotonic()
    whole = ask(pipeline, judge, asked)
    lines: dict[str, str | bool] = {"accepted": accepted(whole.shares())}
    lines |= {name: str(share) for name, share in whole.shares().items()}
    lines |= {f"its {name}": f"{share:.1%}" for name, share in whole.by_palette_and_mark().items()}
    if not arguments.whole_only:
        with without_feed_forwards(pipeline):
            zeroed = ask(pipeline, judge, asked)
        lines |= {f"{n}, every ff.net.2 at zero": str(s) for n, s in zeroed.shares().items()}
    lines["seconds"] = f"{time.monotonic() - start:.0f}"
    for name, line in lines.items():
        print(f"{name}: {line}")
    path = arguments.work / f"{arguments.kind}-acceptance.json"
    path.write_text(json.dumps(lines, indent=2) + "\n")


if __name__ == "__main__":
    main()
