"""Attack rows of the table, from where it stopped: `python -m benchmarks.gallery.table.attacks`.

Each erased artist is attacked alone; a line of attacks.jsonl has the prompts that brought it back.
"""

import argparse
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from benchmarks.gallery import sampling
from benchmarks.gallery.captions import caption
from benchmarks.gallery.judge import WEIGHTS, Judge
from benchmarks.gallery.names import ARTISTS, THINGS
from benchmarks.gallery.table.questions import FIRST_SEED, erased_looks
from benchmarks.gallery.table.rows import METHODS, Gallery, Row
from conceptprune.attacks.attempts import Attempt, Generation, Scene
from conceptprune.attacks.concept_inversion import concept_inversion
from conceptprune.attacks.refill import FILLS, refill
from conceptprune.attacks.ring_a_bell import adversarial_prompts, attempts_with
from conceptprune.attacks.unlearn_diff import unlearn_diff
from conceptprune.evaluation.attack_settings import ConceptInversion, Refill, RingABell, UnlearnDiff
from conceptprune.models.prompt import Prompt
from conceptprune.prompts.pairs import PromptPair

RESULTS = Path(__file__).with_name("attacks.jsonl")
PROMPTS = 16
"""Per artist; a learned word is learned from as many images."""
GENERATION = Generation(steps=sampling.NUM_STEPS, guidance=sampling.GUIDANCE, batch_size=16)
RING_A_BELL = RingABell(generations=100, length=8)


@dataclass(frozen=True, slots=True)
class Searched:
    """Ring-A-Bell. Its search takes minutes and does not see the denoiser: one serves all rows."""

    found: dict[tuple[Prompt, ...], list[Prompt]] = field(default_factory=dict)
    """By the prompts that are asked."""

    def __call__(self, scene: Scene) -> list[Attempt]:
        if scene.asked not in self.found:
            self.found[scene.asked] = adversarial_prompts(scene, RING_A_BELL)
        return attempts_with(scene, self.found[scene.asked], RING_A_BELL)


def every_refill(scene: Scene) -> list[Attempt]:
    """All fills of pruned weights in turn, up to the first that brings a prompt's artist back.

    Without zeros among the site's weights, as after an edit, there is nothing to fill: one image
    a prompt then says what is seen by name.
    """
    linears = scene.model.site_linears(Refill().sites)
    if not any(bool((each.linear.weight == 0).any()) for each in linears.values()):
        return refill(FILLS["random"], scene, Refill())
    attempts: dict[Prompt, Attempt] = {}
    left = scene.asked
    for fill in FILLS.values():
        tries = refill(fill, replace(scene, asked=left), Refill()) if left else []
        attempts |= zip(left, tries, strict=True)
        left = tuple(prompt for prompt in left if not attempts[prompt].success)
    return [attempts[prompt] for prompt in scene.asked]


ATTACKS: Mapping[str, Callable[[Scene], list[Attempt]]] = {
    # Two tokens, as the artists' names have; fewer steps and a larger rate than the reference's, at
    # which the untouched model's artists are found.
    "concept-inversion": lambda scene: concept_inversion(
        scene,
        ConceptInversion(steps=300, batch_size=8, learning_rate=0.02, vectors=2, start="photo"),
    ),
    "refill": every_refill,
    "ring-a-bell": Searched(),
    "unlearn-diff": lambda scene: unlearn_diff(scene, UnlearnDiff(timesteps=5, iterations=10)),
}


def scene_of(
    gallery: Gallery, judge: Judge, look: int, weights: Mapping[str, torch.Tensor]
) -> Scene:
    """One artist's scene, with `weights` in the gallery's denoiser when it is returned."""
    name = ARTISTS[look - 1].name
    things = [(look + place) % len(THINGS) for place in range(PROMPTS)]
    asked = tuple(
        Prompt(text=caption(thing, look), seed=FIRST_SEED + 900_000 + 100 * look + place)
        for place, thing in enumerate(things)
    )
    gallery.put({})
    images = sampling.generate(gallery.pipeline, [p.text for p in asked], [p.seed for p in asked])
    gallery.put(weights)
    return Scene(
        model=gallery.model,
        concept=name,
        plain=tuple(caption(thing, 0) for thing in things),
        asked=asked,
        shows=lambda seen, _of: judge.verdicts(seen).look == look,
        generation=GENERATION,
        examples=tuple(
            PromptPair(
                base=Prompt(text=caption(thing, 0), seed=0),
                target=Prompt(text=caption(thing, look), seed=0),
            )
            for thing in range(len(THINGS))
        ),
        base_images=images,
    )


def main() -> None:
    """Attack what is not on record."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gallery.table.attacks")
    parser.add_argument("--kind", default="unet")
    parser.add_argument("--work", type=Path, default=Path("runs/gallery"))
    parser.add_argument("--methods", nargs="*", default=list(METHODS), metavar="METHOD")
    parser.add_argument("--sizes", nargs="*", type=int, default=[10, 100])
    parser.add_argument("--attacks", nargs="*", default=list(ATTACKS))
    parser.add_argument("--artists", type=int, default=10, help="how many of those erased")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    pipeline = sampling.load(WEIGHTS.parent.parent / arguments.kind)
    gallery = Gallery(pipeline, arguments.work / arguments.kind)
    judge = Judge.load()
    lines = RESULTS.read_text().splitlines() if RESULTS.exists() else []
    columns = ("kind", "method", "size", "attack", "look")
    known = {tuple(line[name] for name in columns) for line in map(json.loads, lines)}
    for size in arguments.sizes:
        looks = erased_looks(size, 0)
        for method in arguments.methods:
            gallery.put({})
            weights = Row(method=method, size=size).weights(gallery, looks)
            for attack in arguments.attacks:
                for look in looks[: arguments.artists]:
                    key = (arguments.kind, method, size, attack, look)
                    if key in known:
                        continue
                    scene = scene_of(gallery, judge, look, weights)
                    begun = time.process_time()
                    attempts = ATTACKS[attack](scene)
                    line = dict(zip(columns, key, strict=True)) | {
                        "successes": sum(attempt.success for attempt in attempts),
                        "prompts": len(attempts),
                        "seconds": round(time.process_time() - begun, 1),
                    }
                    with RESULTS.open("a") as file:
                        file.write(json.dumps(line) + "\n")
                    print(line, flush=True)


if __name__ == "__main__":
    main()
