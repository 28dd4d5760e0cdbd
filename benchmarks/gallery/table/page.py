"""`python -m benchmarks.gallery.table.page`: RESULTS.md and its figure from results.jsonl."""

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib import pyplot as plt
from matplotlib.ticker import PercentFormatter

from benchmarks.erasure.table import table
from benchmarks.gallery import sampling
from benchmarks.gallery.names import ARTISTS, ERASED, KEPT
from benchmarks.gallery.table.__main__ import RESULTS
from benchmarks.gallery.table.attacks import PROMPTS
from benchmarks.gallery.table.attacks import RESULTS as ATTACKED_RESULTS
from benchmarks.gallery.table.choose import AT_MOST
from benchmarks.gallery.table.costs import RESULTS as COSTS
from benchmarks.gallery.table.costs import SIDES
from benchmarks.gallery.table.rows import (
    METHODS,
    REWORD,
    THINGS_NAMED,
    TUNED_UCE,
    UCE_FOUND,
    WEAKER,
)
from conceptprune.evaluation.bootstrap import wilson

PAGE = Path(__file__).with_name("RESULTS.md")
KINDS = {"unet": "The UNet", "transformer": "The transformer"}
"""The gallery's denoisers, and their titles."""

INTRODUCTION = f"""# Up to a hundred artists in one checkpoint of a model that was not made for it

Written by `python -m benchmarks.gallery.table.page` from `results.jsonl`, which
`python -m benchmarks.gallery.table` makes and continues.

The gallery's two denoisers, a [UNet](../models/unet/README.md) of Stable Diffusion's kind and a
[transformer](../models/transformer/README.md) of PixArt's, were trained by the plain denoising
loss, each with a frozen text encoder. A judge says what an image shows. Of {len(ARTISTS)} artists,
{len(ERASED)} may be erased, always the first of one random order; alone, another one in each
round. *Kept* are the other {len(KEPT)}, which share marks, palettes and words with those erased.
Every method may know who is kept, and which photos: the edits preserve them by name. No setting was
chosen on them, nor with the seeds of this page: settings were chosen on 72 of the hundred, with the
other 28 in the place of those kept, and on the UNet, unless a row or this text says otherwise.

{sampling.NUM_STEPS} DDIM steps, guidance {sampling.GUIDANCE:g}. Rates are in percent, with
Wilson's intervals of 95 %; *things* are those in all artists' images. *Distance* is the mean over
images of kept artists and photos of the root mean square difference of pixels (of 255) from the
untouched model's image of the same prompt and seed. *Changed* is the share of the denoiser's
weights. *Seconds* are those of one core, without a GPU, from the loaded pipeline to the changed
weights; for methods that prune, with the statistics of every artist, timed on {SIDES} of them. *kB*
is the file that a user keeps: a mask where weights are only zeroed, else the changed keys and
values in float16.

- **ConceptPrune**: k 1 %, ten calls of 50, the gallery's 16 things. One artist has nothing to fuse;
  with the site zeroed, the checkpoint is the same for any number of artists.
- **UCE, RECE**: as their authors' scripts run them now, the kept artists preserved by name.
- **SPEED**: as its authors run it for styles, one at a time, and as they do for up to 100
  celebrities, with the guide for styles; where they retain 1,734 and 100 names, the kept artists'
  take their place.
- **tuned**: settings and texts chosen in trials, 9 to 12 of each on the UNet (`rows.py` has them)
  and 12 to 31 on the transformer (`tuning.jsonl`), with the kept artists', the photos' captions and
  the empty one preserved; for 72 artists. For fewer, others may do better: UCE and RECE add up over
  texts, SPEED averages.
- **UCE, as strong as rewording**: tuned, but preserving less, by the rule of *strengths found*
  below, of eleven scales, two of which were added when nine were not enough on the transformer
  ({UCE_FOUND["unet"].preserve_scale:g} instead of {TUNED_UCE.preserve_scale:g} on the UNet,
  {UCE_FOUND["transformer"].preserve_scale:g} on the transformer). It shows what UCE keeps, and what
  attacks bring back, when it takes away as much.
- **rewording** is ours: UCE's equation on all tokens of whole captions
  (`conceptprune/edits/reword.py`). It is given the demo's 8 captions per artist, of half of the
  things and one of the four templates, and is asked in all 64; it keeps photos' captions with
  common words of the text encoder, too, with the manifest's default strengths: {REWORD.retain:g}
  for kept artists, {REWORD.base:g} for photos, {REWORD.vocabulary:g} for common words.
- **weaker strengths** ({WEAKER.retain:g}, {WEAKER.base:g}, {WEAKER.vocabulary:g}) were chosen on
  the transformer.
- **no common words** shows what these are for; with **every caption** it is given the very words
  that it is asked in.
- **every thing named**: one template, as in the published prompts, with all 16 things
  ({THINGS_NAMED.retain:g}, {THINGS_NAMED.base:g}, {THINGS_NAMED.vocabulary:g}, ridge
  {THINGS_NAMED.ridge:g} on the UNet); three quarters of what is asked is in other wordings. A
  manifest says it by `reword: {{fillers: ...}}`, at no cost in images.
- **strengths found**: those of the row above times one factor, the largest of nine at which at most
  {AT_MOST:.0%} of the erased are seen in 800 images with other captions and seeds, none of a kept
  artist (`choose.py`). The rule was written after the row above was seen, and before its own
  images.
- **two wordings**: every thing in two of the four, 32 captions, strengths found by the same rule,
  after the rows above and before this row's images; half of what is asked is in other wordings. A
  manifest says it by `reword: {{templates: ...}}`.
"""

ATTACKED = f"""## What is left of the ability

Concept Inversion learns a word of two tokens for one artist, from {PROMPTS} of the untouched
model's images, against the edited model (300 steps of 8 images). The word then stands in the
artist's prompts. UnlearnDiffAtk searches a few tokens before each prompt, by gradients at 5
timesteps, 10 iterations each. Ring-A-Bell searches 8 tokens that the text encoder takes for a
photo's caption moved towards the artist's, and does not see the denoiser (`attacks.py` has all
budgets). Refills draw pruned weights anew, in five ways until one brings the artist back; an edit
has none, and what is seen by name stands in its row. All that these edits take away is the
name: a learned word brings the style back, whatever the edit. What tokens of the vocabulary bring
back depends on it.

Why: every mark and every palette is kept in somebody. The 28 kept artists' prompts span 93 % of
what tells the erased ones' from photos' (in 60 directions), and keys and values are linear in the
encoded prompt, so that a word made of kept artists' parts serves as well as the name. Only what
acts on combinations could tell them apart. Of what was tried on 72 of the hundred, nothing did
both: edits of `ff.net.2` by second moments left 28 % of the erased seen and 84 % of the kept (at a
larger strength 53 % and 91 %; untouched 100 % and 89 %), and a learned word's artist in 84 %, also
after rewording. The words that UnlearnDiffAtk finds are mostly parts of other artists' names, with
the palette that is missing. Rewording the captions with three other words in front, too, with the
same strengths, made it weaker, when it was tried once: of 48 images on the UNet, a hundred artists,
every thing named, strengths found, 14 show the artist as in the table, 24 with random common words
in front of one more caption of each thing, and 30 with parts of names in front of three more."""

MISSING = """## Not measured yet

- Rows with few images have wide intervals; `make gallery` continues all of them, and makes those
  that are not there yet.
- UCE, RECE and SPEED with whole captions, as rewording has them: tuned, they have names or the
  phrases of UCE's script, in which a name stands elsewhere than in the captions. More trials may
  find better settings; the authors' are for a few names, and are shown as they are.
- More artists of each attack.
"""

Line = dict[str, Any]
Rows = Mapping[tuple[str, int], Sequence[Line]]
Costs = Mapping[tuple[str, int], Line]


def rows(lines: Iterable[Line], kind: str) -> Rows:
    """Rounds of a denoiser by method and size, in the table's order."""
    found: defaultdict[tuple[str, int], list[Line]] = defaultdict(list)
    for line in lines:
        if line["kind"] == kind:
            found[line["method"], line["size"]].append(line)
    order = list(METHODS)
    return dict(sorted(found.items(), key=lambda each: (each[0][1], order.index(each[0][0]))))


def total(rounds: Sequence[Line], name: str) -> tuple[int, int]:
    """Hits and images of all rounds."""
    hits, images = zip(*(line["counts"][name] for line in rounds), strict=True)
    return sum(hits), sum(images)


def rate(hits: int, images: int) -> str:
    """In percent, with its interval."""
    low, high = wilson(hits, images)
    return f"{100 * hits / images:.1f} ({100 * low:.1f}-{100 * high:.1f})"


def mean(rounds: Sequence[Line], name: str) -> float:
    """Of a number that each round has."""
    return float(sum(line[name] for line in rounds) / len(rounds))


def costs_of(lines: Iterable[Line], kind: str) -> Costs:
    """What each method and size costs on a denoiser."""
    return {(each["method"], each["size"]): each for each in lines if each["kind"] == kind}


def cost(costs: Costs, method: str, size: int) -> list[str]:
    """Seconds, and kilobytes; dashes where there is nothing to make, or it was not measured."""
    found = costs.get((method, size))
    if found is None:
        return ["-", "-"]
    seconds = found["seconds"]
    return [f"{seconds:.0f}" if seconds >= 10 else f"{seconds:.1f}", f"{found['bytes'] / 1000:.0f}"]


def results_table(found: Rows, costs: Costs) -> str:
    """One row for each method and size."""
    header = ["artists", "method", "changed, %", "erased seen", "kept seen", "things", "photos"]
    header += ["distance", "seconds", "kB", "images"]
    body = [
        [
            str(size),
            method,
            f"{100 * mean(rounds, 'share'):.2f}",
            *(rate(*total(rounds, name)) for name in ("erased", "kept", "thing", "photo")),
            f"{mean(rounds, 'distance'):.1f}",
            *cost(costs, method, size),
            str(sum(total(rounds, name)[1] for name in ("erased", "kept", "photo"))),
        ]
        for (method, size), rounds in found.items()
    ]
    return table(header, body)


def draw(found: Rows, path: Path) -> None:
    """Erased artists still seen (across) against kept ones (up): a panel a size."""
    sizes = sorted({size for _, size in found})
    figure, panels = plt.subplots(
        (len(sizes) + 1) // 2,
        2,
        figsize=(10, 0.33 * len(METHODS)),
        layout="constrained",
        sharex=True,
        sharey=True,
    )
    order = list(METHODS)
    named = {}
    for (method, size), rounds in found.items():
        across, up = (
            hits / images for hits, images in (total(rounds, n) for n in ("erased", "kept"))
        )
        place = order.index(method)
        # Hollow and ever smaller, so that points in one place are all seen.
        named[method] = panels.flat[sizes.index(size)].scatter(
            across,
            up,
            s=230 - 200 * place / len(order),
            marker="os^Dv"[place % 5],
            facecolors="none",
            edgecolors=f"C{place % 9}",
            linewidths=1.3,
        )
    for axes, size in zip(panels.flat, sizes, strict=False):
        artists = "1 artist" if size == 1 else f"{size} artists"
        axes.set(xlim=(-0.05, 1.05), ylim=(-0.05, 1.05), title=f"{artists} in one checkpoint")
        axes.xaxis.set_major_formatter(PercentFormatter(1))
        axes.yaxis.set_major_formatter(PercentFormatter(1))
        axes.grid(alpha=0.3)
    figure.supxlabel("erased artists still seen")
    figure.supylabel("kept artists seen")
    ordered = [method for method in order if method in named]
    figure.legend(
        [named[method] for method in ordered], ordered, loc="outside right upper", labelspacing=1
    )
    # Without matplotlib's version, so that the same results give the same file.
    figure.savefig(path, dpi=150, metadata={"Software": None})
    plt.close(figure)


def attacks_table(lines: Iterable[Line]) -> str:
    """One row for each attack on a denoiser, method and size."""
    found: defaultdict[tuple[int, int, str, str], list[Line]] = defaultdict(list)
    kinds = list(KINDS)
    for line in lines:
        kind = kinds.index(line["kind"])
        found[kind, line["size"], line["attack"], line["method"]].append(line)
    seen = "images that show the artist"
    header = ["denoiser", "artists erased", "attack", "method", seen, "attacked"]
    body = [
        [
            kinds[kind],
            str(size),
            attack,
            method,
            rate(sum(a["successes"] for a in attacked), sum(a["prompts"] for a in attacked)),
            "1 artist" if len(attacked) == 1 else f"{len(attacked)} artists",
        ]
        for (kind, size, attack, method), attacked in sorted(found.items())
    ]
    return table(header, body)


def page(lines: Sequence[Line], attacked: Iterable[Line], costs: Sequence[Line]) -> str:
    """The page."""
    parts = [INTRODUCTION.rstrip()]
    for kind, title in KINDS.items():
        figure = f"![{title}: erased against kept]({figure_of(kind).name})"
        found = results_table(rows(lines, kind), costs_of(costs, kind))
        parts += [f"## {title}", found, figure]
    return "\n\n".join([*parts, ATTACKED, attacks_table(attacked), MISSING])


def figure_of(kind: str) -> Path:
    """The figure of a denoiser's rows."""
    return PAGE.with_name("frontier.png" if kind == "unet" else f"frontier-{kind}.png")


def read(path: Path) -> list[Line]:
    """A file of results."""
    return [json.loads(line) for line in path.read_text().splitlines()]


def main() -> None:
    """Write the page and the figure."""
    PAGE.write_text(page(read(RESULTS), read(ATTACKED_RESULTS), read(COSTS)))
    for kind in KINDS:
        draw(rows(read(RESULTS), kind), figure_of(kind))


if __name__ == "__main__":
    main()
