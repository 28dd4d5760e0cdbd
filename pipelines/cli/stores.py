"""The commands on what a store has: show, export, verify, report, remove."""

from pathlib import Path
from typing import Annotated

import typer

from conceptprune.errors import UserError

from ..console import exits
from ..console.terminal import echo, tell_json, terminal
from .options import JsonOption, RunOption, StoreArgument


def status(store: StoreArgument, as_json: JsonOption = False) -> None:
    """Show each run of a store: what is done, what failed and why, what a rerun would do."""
    if as_json:
        from ..commands.status_json import status_document

        tell_json(status_document(store))
    else:
        from ..commands.status import show_status

        show_status(store, terminal())


def export(
    store: StoreArgument,
    out: Annotated[Path, typer.Option("--out", help="Folder to write; must not exist yet.")],
    concepts: Annotated[
        list[str] | None, typer.Argument(help="Concept names, as in the manifest; or --all.")
    ] = None,
    every: Annotated[
        bool,
        typer.Option(
            "--all",
            help="Every concept that has a mask; those that failed are named, not waited for.",
        ),
    ] = False,
    combined: Annotated[
        bool,
        typer.Option(
            "--combined",
            help="The run's own combined checkpoint, as it is: a fused mask, or a rewording.",
        ),
    ] = False,
    form: Annotated[
        str,
        typer.Option(
            "--as",
            help="pipeline (a folder), single-file, unet (the denoiser's whole state dict), delta "
            "(edited tensors), or mask.",
        ),
    ] = "pipeline",
    fuse: Annotated[
        str | None,
        typer.Option("--fuse", help="All in one checkpoint: union, retain-shared or budget."),
    ] = None,
    alpha: Annotated[
        float | None,
        typer.Option("--alpha", help="Of retain-shared: keep what this share of them selects."),
    ] = None,
    fraction: Annotated[
        float | None, typer.Option("--fraction", help="Of budget: the site's share to spend.")
    ] = None,
    run: RunOption = None,
    model: Annotated[
        Path | None,
        typer.Option(
            "--model", help="The base model's folder or file (not needed for the demo's)."
        ),
    ] = None,
    seal: Annotated[
        bool,
        typer.Option(
            "--seal", help="Draws of the layer's own values where weights were pruned, not zeros."
        ),
    ] = False,
) -> None:
    """Write a checkpoint without some concepts, with its metadata and a model card."""
    if combined:
        from ..commands.export_combined import export_combined

        if alpha is not None or fraction is not None:
            raise UserError("--alpha and --fraction are settings of --fuse")
        export_combined(
            store,
            concepts or [],
            every=every,
            out=out,
            form=form,
            fuse=fuse,
            run=run,
            model=model,
            seal=seal,
        )
        return
    from ..commands.export import export_concepts

    export_concepts(
        store,
        concepts or [],
        every=every,
        out=out,
        form=form,
        fuse=fuse,
        alpha=alpha,
        fraction=fraction,
        run=run,
        model=model,
        seal=seal,
    )


def verify(
    folder: Annotated[
        Path | None, typer.Argument(help="A folder that export wrote; may be left out.")
    ] = None,
    store: Annotated[
        str | None,
        typer.Option(
            "--store",
            help="Also hold its run, masks and rewording against this store, and check the store's "
            "edits and chain of events.",
        ),
    ] = None,
    event: Annotated[
        list[str] | None,
        typer.Option(
            "--event",
            metavar="SHA256",
            help="An event that must be in the chain, as verify told it earlier.",
        ),
    ] = None,
    signers: Annotated[
        Path | None,
        typer.Option(
            "--signers",
            help="OpenSSH's file of allowed signers: one of them must have signed the statement.",
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Check an export against its statement, a store's chain of events; exit 1 if one differs."""
    from ..commands.verify import (
        audit,
        show_audit,
        show_verified,
        verified_document,
        verify_export,
    )

    if store is None and event:
        raise UserError("--event: needs --store, whose chain it should be in")
    if folder is None and store is None:
        raise UserError("verify: give a folder that export wrote, --store, or both")
    found = verify_export(folder, store, signers) if folder else []
    audited = audit(store, event or ()) if store else None
    document = verified_document(found, audited)
    if as_json:
        tell_json(document)
    else:
        show_verified(found)
        if audited:
            show_audit(audited)
    raise typer.Exit(exits.of_job(not document["good"]))


def report(
    store: StoreArgument,
    out: Annotated[
        Path, typer.Option("--out", help="One page (NAME.html), or the folder of a site.")
    ] = Path("report.html"),
    run: RunOption = None,
) -> None:
    """Write one self-contained page, or a site of pages: what was erased, and what it cost."""
    from ..console.logs import one_line
    from ..report import write_report

    not_shown = write_report(store, out=out, run=run)
    echo(f"wrote {out}")
    if not_shown:
        passed_over = one_line("; ".join(not_shown))
        echo(
            f"note: not shown, as another version of conceptprune recorded it: {passed_over}",
            err=True,
        )


def gc(
    store: StoreArgument,
    yes: Annotated[bool, typer.Option("--yes", help="Remove what is listed.")] = False,
    forget: Annotated[
        list[str] | None,
        typer.Option("--forget", help="A run's id: drop the run, and what only it refers to."),
    ] = None,
    grace: Annotated[
        float, typer.Option("--grace", help="Hours for which anything is kept; at least 2.")
    ] = 24.0,
) -> None:
    """List what no run of a store refers to; with --yes, remove it."""
    from ..commands.gc import collect_garbage

    collect_garbage(store, terminal(), yes=yes, forget=forget or (), grace_hours=grace)
