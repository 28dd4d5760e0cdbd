"""The commands on a manifest or a suite that run nothing: write, describe, compare, check, plan."""

from pathlib import Path
from typing import Annotated

import typer

from ..console.terminal import echo, tell_document, tell_json, terminal
from .options import FilesFromOption, JsonOption, ManifestPath


def init(
    out: Annotated[Path, typer.Argument(help="The manifest to write; must not exist yet.")],
    names: Annotated[
        Path | None,
        typer.Option("--from", help="A list of names: a .csv, or a text file with one a line."),
    ] = None,
    kind: Annotated[
        str | None, typer.Option("--kind", help="The kind of all concepts that name none.")
    ] = None,
) -> None:
    """Write a commented manifest to start from."""
    from ..commands.init import write_manifest

    count, check = write_manifest(out, names, kind)
    echo(f"wrote {out}: {count} concepts to erase; next: {check}")


def schema(
    document: Annotated[str, typer.Argument(metavar="manifest|suite", help="Which.")],
    markdown: Annotated[
        bool, typer.Option("--markdown", help="The reference of its fields, for people.")
    ] = False,
) -> None:
    """Print the JSON Schema of a manifest or a suite, for editors."""
    if markdown:
        from ..commands.reference import reference_text

        tell_document(reference_text(document))
        return
    from ..commands.schema import schema_text

    tell_document(schema_text(document))


def diff(
    old: Annotated[Path, typer.Argument(help="The earlier manifest.")],
    new: Annotated[Path, typer.Argument(help="The manifest to compare with it.")],
    files_from: FilesFromOption = None,
    as_json: JsonOption = False,
) -> None:
    """Say which concepts a manifest adds, drops and keeps against another, and what that costs."""
    from ..commands.diff import difference, show_difference

    found = difference(old, new)
    if as_json:
        tell_json(found.as_json())
    else:
        show_difference(found, terminal())


def validate(
    manifest: ManifestPath,
    model: Annotated[
        bool,
        typer.Option(
            "--model", help="Also check its model: configs, and that no tensor is missing."
        ),
    ] = False,
    files_from: FilesFromOption = None,
) -> None:
    """Check a manifest or a suite; print nothing but its summary or every problem in it."""
    from ..commands.validate import validate as run

    echo(run(manifest, model=model))


def plan(
    manifest: ManifestPath,
    store: Annotated[
        str | None, typer.Option("--store", help="Also say what this store has already.")
    ] = None,
    calibrate: Annotated[
        bool, typer.Option("--calibrate", help="Time a few denoiser calls, estimate the job.")
    ] = False,
    files_from: FilesFromOption = None,
    rate: Annotated[
        float | None,
        typer.Option("--rate", help="Evaluations/s of one worker, in the place of --calibrate."),
    ] = None,
    gpu_hour: Annotated[
        float | None, typer.Option("--gpu-hour", help="Price of a GPU for an hour: also say money.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Say what a manifest would cost, without running or writing anything."""
    from ..commands.plan import show_plan

    console = terminal(stderr=as_json)
    document = show_plan(
        manifest, store, calibrate=calibrate, console=console, rate=rate, gpu_hour=gpu_hour
    )
    if as_json:
        tell_json(document)
