"""The commands under `conceptprune baseline`."""

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    name="baseline",
    help="Erase a manifest's concepts by other methods, as one delta, for comparison.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

ManifestPath = Annotated[Path, typer.Argument(help="The manifest: model, concepts, retain, site.")]
Out = Annotated[Path, typer.Option("--out", help="Folder to write; must not exist yet.")]
Guides = Annotated[
    list[str] | None,
    typer.Option(
        "--guide",
        help="What to generate instead: one for all concepts, or one for each. Default: art for "
        "styles, the empty prompt for others.",
    ),
]
Preserve = Annotated[
    list[str] | None,
    typer.Option("--preserve", help="A text to preserve, besides the manifest's retain list."),
]
Expand = Annotated[
    bool,
    typer.Option(
        "--expand",
        help="Also erase phrases: art by {concept} becomes art by {guide}, and so on.",
    ),
]
EraseScale = Annotated[float, typer.Option("--erase-scale", help="Weight of what is erased.")]
PreserveScale = Annotated[
    float, typer.Option("--preserve-scale", help="Weight of what is preserved.")
]
Lamb = Annotated[float, typer.Option("--lamb", help="The penalty on changes to weights.")]
TokensOf = Annotated[
    str,
    typer.Option("--tokens", help="Tokens to edit: last (of the subject), rest (and after), all."),
]
Density = Annotated[
    float | None, typer.Option("--density", help="The share of each layer to zero.")
]
Like = Annotated[
    Path | None, typer.Option("--like", help="A mask file: zero as many weights per layer.")
]


@app.command()
def uce(
    manifest: ManifestPath,
    out: Out,
    guide: Guides = None,
    preserve: Preserve = None,
    expand: Expand = False,
    erase_scale: EraseScale = 1.0,
    preserve_scale: PreserveScale = 1.0,
    lamb: Lamb = 0.5,
    tokens: TokensOf = "last",
) -> None:
    """Unified Concept Editing; the defaults are the published ones."""
    from conceptprune.baselines.uce import UceSettings, tokens_named

    from . import programs

    settings = UceSettings(
        erase_scale=erase_scale,
        preserve_scale=preserve_scale,
        lamb=lamb,
        tokens=tokens_named(tokens),
    )
    programs.uce(
        manifest, out, guides=guide or (), preserve=preserve or (), expand=expand, settings=settings
    )


@app.command()
def rece(
    manifest: ManifestPath,
    out: Out,
    guide: Guides = None,
    preserve: Preserve = None,
    expand: Expand = False,
    erase_scale: EraseScale = 1.0,
    preserve_scale: PreserveScale = 0.1,
    lamb: Lamb = 0.1,
    tokens: TokensOf = "all",
    epochs: Annotated[
        int | None,
        typer.Option("--epochs", help="Rounds of finding and erasing. Default: 1, for nudity 3."),
    ] = None,
    regularisation: Annotated[
        float | None,
        typer.Option(
            "--regularisation",
            help="Of what is found: larger is milder. Default: 0.001, for nudity 0.1.",
        ),
    ] = None,
) -> None:
    """RECE: after UCE's published edit, repeatedly erase what still generates the concept."""
    from conceptprune.baselines.uce import UceSettings, tokens_named

    from . import programs

    again = UceSettings(
        erase_scale=erase_scale,
        preserve_scale=preserve_scale,
        lamb=lamb,
        tokens=tokens_named(tokens),
    )
    programs.rece(
        manifest,
        out,
        guides=guide or (),
        preserve=preserve or (),
        expand=expand,
        again=again,
        epochs=epochs,
        regularisation=regularisation,
    )


@app.command()
def speed(
    manifest: ManifestPath,
    out: Out,
    guide: Guides = None,
    preserve: Preserve = None,
    expand: Expand = False,
    augment: Annotated[
        int, typer.Option("--augment", help="Noisy copies of each preserved text.")
    ] = 10,
    threshold: Annotated[
        float,
        typer.Option("--threshold", help="Directions with a larger eigenvalue are not edited."),
    ] = 0.1,
    retain_scale: Annotated[
        float, typer.Option("--retain-scale", help="The penalty on changes to weights.")
    ] = 1.0,
    lamb: Annotated[
        float, typer.Option("--lamb", help="How loosely the empty prompt is preserved.")
    ] = 0.0,
    filtered: Annotated[
        bool,
        typer.Option("--filter/--no-filter", help="Preserve only what the edit changes much."),
    ] = True,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of the copies' noise.")] = 0,
) -> None:
    """SPEED: values edited within what preserved texts leave free; the defaults are for styles."""
    from conceptprune.baselines.speed import SpeedSettings

    from . import programs

    settings = SpeedSettings(
        augment=augment,
        threshold=threshold,
        retain_scale=retain_scale,
        lamb=lamb,
        filtered=filtered,
        seed=seed,
    )
    programs.speed(
        manifest, out, guides=guide or (), preserve=preserve or (), expand=expand, settings=settings
    )


@app.command()
def random(
    manifest: ManifestPath,
    out: Out,
    density: Density = None,
    like: Like = None,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Chooses the weights.")] = 0,
) -> None:
    """A control: weights of the pruning site zeroed at random."""
    from . import programs

    programs.random(manifest, out, density=density, like=like, seed=seed)


@app.command()
def magnitude(
    manifest: ManifestPath,
    out: Out,
    density: Density = None,
    like: Like = None,
    smallest: Annotated[
        bool, typer.Option("--smallest", help="Zero the smallest instead of the largest.")
    ] = False,
) -> None:
    """A control: the largest weights of the pruning site zeroed."""
    from . import programs

    programs.magnitude(manifest, out, density=density, like=like, smallest=smallest)


@app.command()
def esd(
    checkpoint: Annotated[Path, typer.Argument(help="ESD's .safetensors, or its earlier .pt.")],
    manifest: ManifestPath,
    out: Out,
) -> None:
    """Import a checkpoint that ESD trained from the manifest's model; of a .pt, only weights."""
    from . import programs

    programs.esd(checkpoint, manifest, out)
