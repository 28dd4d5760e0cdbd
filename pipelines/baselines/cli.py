"""The commands under `conceptprune baseline`."""

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    name="baseline",
    help="Erase a manifest's concepts otherwise, all in one delta, to compare with.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

ManifestPath = Annotated[Path, typer.Argument(help="The manifest: model, concepts, retain, site.")]
Out = Annotated[Path, typer.Option("--out", help="Folder to write; must not exist yet.")]
Guides = Annotated[
    list[str] | None,
    typer.Option(
        "--guide",
        help="What to generate instead: once for all, or once for each concept. By default art for "
        "styles, the empty prompt for others.",
    ),
]
Preserve = Annotated[
    list[str] | None,
    typer.Option("--preserve", help="A text to preserve, beside the manifest's retain list."),
]
Expand = Annotated[
    bool,
    typer.Option(
        "--expand",
        help="Also erase art by {concept} and such, each by art by {guide}.",
    ),
]
EraseScale = Annotated[float, typer.Option("--erase-scale", help="Weight of what is erased.")]
PreserveScale = Annotated[
    float, typer.Option("--preserve-scale", help="Weight of what is preserved.")
]
Lamb = Annotated[float, typer.Option("--lamb", help="What it costs to change a weight.")]
TokensOf = Annotated[
    str,
    typer.Option("--tokens", help="Which are edited: last (subject token), rest (and after), all."),
]
Density = Annotated[
    float | None, typer.Option("--density", help="The share of each layer to zero.")
]
Like = Annotated[
    Path | None, typer.Option("--like", help="A mask file: as many weights of each layer as it.")
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
        typer.Option("--epochs", help="How often to find and erase; 1, and 3 for nudity."),
    ] = None,
    regularisation: Annotated[
        float | None,
        typer.Option(
            "--regularisation",
            help="Of what is found, the larger the milder; 0.001, and 0.1 for nudity.",
        ),
    ] = None,
) -> None:
    """RECE: after UCE's published edit, erase what still generates the concept, again and again."""
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
def random(
    manifest: ManifestPath,
    out: Out,
    density: Density = None,
    like: Like = None,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Decides which weights.")] = 0,
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
    """Import a checkpoint trained by ESD from the manifest's model; a .pt with weights only."""
    from . import programs

    programs.esd(checkpoint, manifest, out)
