"""The command line: from a manifest to masks and checkpoints, and from a suite to numbers."""

import json
import sys
from math import isfinite
from pathlib import Path
from typing import Annotated, Any

import typer

from conceptprune import __version__
from conceptprune.errors import ClusterError, NumericalError, StoreError, UserError

from .baselines.cli import app as baseline
from .console import exits
from .console.logs import configure, is_json, logger, tell_error
from .console.stopping import Commands, stops_with_a_line
from .console.terminal import echo, tell_document, tell_traceback, terminal

app = typer.Typer(
    name="conceptprune",
    help="Erase many concepts at once from a text-to-image diffusion model, by pruning.",
    no_args_is_help=True,
    add_completion=False,
    cls=Commands,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

app.add_typer(baseline, name="baseline")


def _allow(folders: list[Path] | None) -> list[Path] | None:
    # Imported here because the manifest package takes seconds to import.
    from conceptprune.manifest.files import allow_files_from

    allow_files_from(folders or ())
    return folders


ManifestPath = Annotated[Path, typer.Argument(help="The manifest, a YAML file.")]
StoreUri = Annotated[str, typer.Option("--store", help="Artifact store: a folder or s3://...")]
StoreArgument = Annotated[str, typer.Argument(help="Artifact store: a folder or s3://...")]
LogFormatOption = Annotated[
    str | None,
    typer.Option(
        "--log-format",
        help="json (one object a line, on standard error) or plain; by default what "
        "CONCEPTPRUNE_LOG_FORMAT says, else plain.",
    ),
]
FilesFromOption = Annotated[
    list[Path] | None,
    typer.Option(
        "--files-from",
        metavar="FOLDER",
        callback=_allow,
        help="Prompts and captions may be in files of this folder, too, and not only beside the "
        "manifest or suite; may be given several times.",
    ),
]
JsonOption = Annotated[
    bool,
    typer.Option("--json", help="One JSON document on standard output; all else on the other."),
]
RunOption = Annotated[str | None, typer.Option("--run", help="A run's id; the newest by default.")]


def _show_version(asked: bool) -> None:
    if asked:
        echo(f"conceptprune {__version__}")
        raise typer.Exit


@app.callback()
def conceptprune(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_show_version, is_eager=True, help="Show the version and exit."
        ),
    ] = False,
) -> None:
    """Erase many concepts at once from a text-to-image diffusion model, by pruning."""


def _finite(value: Any) -> Any:
    """JSON has no NaN and no infinity: use null instead."""
    match value:
        case float():
            return value if isfinite(value) else None
        case dict():
            return {name: _finite(each) for name, each in value.items()}
        case list() | tuple():
            return [_finite(each) for each in value]
    return value


def _print_json(document: dict[str, Any]) -> None:
    text = json.dumps(_finite(document), ensure_ascii=False, indent=2, allow_nan=False)
    tell_document(f"{text}\n")


@app.command()
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
    from .commands.init import write_manifest

    count = write_manifest(out, names, kind)
    echo(f"wrote {out}: {count} concepts to erase")


@app.command()
def schema(
    document: Annotated[str, typer.Argument(metavar="manifest|suite", help="Which.")],
    markdown: Annotated[
        bool, typer.Option("--markdown", help="The reference of its fields, for people.")
    ] = False,
) -> None:
    """Print the JSON Schema of a manifest or a suite, for editors."""
    if markdown:
        from .commands.reference import reference_text

        tell_document(reference_text(document))
        return
    from .commands.schema import schema_text

    tell_document(schema_text(document))


@app.command()
def diff(
    old: Annotated[Path, typer.Argument(help="The earlier manifest.")],
    new: Annotated[Path, typer.Argument(help="The manifest to compare with it.")],
    as_json: JsonOption = False,
) -> None:
    """Say which concepts a manifest adds, drops and keeps against another, and what that costs."""
    from .commands.diff import difference, show_difference

    found = difference(old, new)
    if as_json:
        _print_json(found.as_json())
    else:
        show_difference(found, terminal())


@app.command()
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
    from .commands.validate import validate as run

    echo(run(manifest, model=model))


@app.command()
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
    from .commands.plan import show_plan

    console = terminal(stderr=as_json)
    document = show_plan(
        manifest, store, calibrate=calibrate, console=console, rate=rate, gpu_hour=gpu_hour
    )
    if as_json:
        _print_json(document)


@app.command()
def erase(
    manifest: ManifestPath,
    store: StoreUri,
    log_format: LogFormatOption = None,
    verify: Annotated[
        bool,
        typer.Option("--verify", help="Read every result that is there; make damaged ones anew."),
    ] = False,
    files_from: FilesFromOption = None,
) -> None:
    """Erase every concept of a manifest; safe to run again, finished work is not repeated."""
    from .jobs.erase import erase as run

    raise typer.Exit(run(manifest, store, terminal(), log_format, verify=verify))


@app.command()
def sweep(
    manifest: ManifestPath,
    store: StoreUri,
    log_format: LogFormatOption = None,
    files_from: FilesFromOption = None,
    as_json: JsonOption = False,
) -> None:
    """Compare the settings under sweep: from one collection; writes a table, erases nothing."""
    from .jobs.sweep import sweep as run

    tell = _print_json if as_json else None
    raise typer.Exit(run(manifest, store, terminal(stderr=as_json), log_format, tell))


@app.command()
def evaluate(
    suite: Annotated[Path, typer.Argument(help="The suite, a YAML file.")],
    store: StoreUri,
    of: Annotated[
        list[str],
        typer.Option(
            "--of",
            metavar="[LABEL=]KIND[:VALUE]",
            help="A checkpoint: base, mask:FILE or mask:CONCEPT, delta:FILE, folder:PATH. "
            "May be given several times.",
        ),
    ],
    log_format: LogFormatOption = None,
    files_from: FilesFromOption = None,
    as_json: JsonOption = False,
) -> None:
    """Generate images of a suite with each checkpoint and score them; resumable as erase."""
    from .jobs.evaluate import evaluate as run

    tell = _print_json if as_json else None
    raise typer.Exit(run(suite, store, of, terminal(stderr=as_json), log_format, tell))


@app.command()
def attack(
    suite: Annotated[Path, typer.Argument(help="The suite, a YAML file with attacks:.")],
    store: StoreUri,
    of: Annotated[
        list[str],
        typer.Option("--of", metavar="[LABEL=]KIND[:VALUE]", help="As of evaluate."),
    ],
    names: Annotated[
        list[str],
        typer.Option(
            "--attack",
            metavar="NAME",
            help="none, random-tokens, ring-a-bell, unlearn-diff, concept-inversion, "
            "refill-random, ...; may be given several times.",
        ),
    ],
    log_format: LogFormatOption = None,
    files_from: FilesFromOption = None,
) -> None:
    """Attack erased checkpoints, and say how often the concept is seen again; resumable."""
    from .jobs.attack import attack as run

    raise typer.Exit(run(suite, store, of, names, terminal(), log_format))


@app.command()
def submit(
    first: Annotated[
        str,
        typer.Argument(
            metavar="MANIFEST|COMMAND",
            help="The manifest to erase by; or erase, sweep, evaluate or attack, and then FILE.",
        ),
    ],
    store: StoreUri,
    file: Annotated[
        Path | None,
        typer.Argument(metavar="FILE", help="The COMMAND's manifest or suite."),
    ] = None,
    of: Annotated[
        list[str] | None,
        typer.Option(
            "--of",
            metavar="[LABEL=]KIND[:VALUE]",
            help="As of evaluate; a relative path in it is uploaded, an absolute one that is not "
            "in the working directory must be on every node.",
        ),
    ] = None,
    names: Annotated[
        list[str] | None, typer.Option("--attack", metavar="NAME", help="As of attack.")
    ] = None,
    address: Annotated[
        str,
        typer.Option(
            "--address",
            envvar=["RAY_API_SERVER_ADDRESS", "RAY_ADDRESS"],
            help="URL of the cluster's Jobs API.",
        ),
    ] = "http://127.0.0.1:8265",
    working_dir: Annotated[
        Path,
        typer.Option(
            "--working-dir", help="The file and what it names by relative paths are in it."
        ),
    ] = Path(),
    log_format: LogFormatOption = None,
    files_from: FilesFromOption = None,
) -> None:
    """Run a command on a Ray cluster: submit it, show its log, exit with its verdict."""
    from .submit.submission import Submission, command_and_file
    from .submit.submit import submit as run

    command, path = command_and_file(first, file)
    submission = Submission.of(
        path,
        store,
        working_dir,
        log_format,
        command=command,
        of=of or (),
        attacks=names or (),
        files_from=files_from or (),
    )
    raise typer.Exit(run(submission, address=address))


@app.command()
def status(store: StoreArgument, as_json: JsonOption = False) -> None:
    """Show each run of a store: what is done, what failed and why, what a rerun would do."""
    if as_json:
        from .commands.status_json import status_document

        _print_json(status_document(store))
    else:
        from .commands.status import show_status

        show_status(store, terminal())


@app.command()
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
    from .commands.export import export_concepts

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


@app.command()
def verify(
    folder: Annotated[
        Path | None, typer.Argument(help="A folder that export wrote; may be left out.")
    ] = None,
    store: Annotated[
        str | None,
        typer.Option(
            "--store",
            help="Also hold its run and masks against this store, and check the store's chain of "
            "events.",
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
    from .commands.verify import (
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
        _print_json(document)
    else:
        show_verified(found)
        if audited:
            show_audit(audited)
    raise typer.Exit(exits.of_job(not document["good"]))


@app.command()
def report(
    store: StoreArgument,
    out: Annotated[
        Path, typer.Option("--out", help="One page (NAME.html), or the folder of a site.")
    ] = Path("report.html"),
    run: RunOption = None,
) -> None:
    """Write one self-contained page, or a site of pages: what was erased, and what it cost."""
    from .console.logs import one_line
    from .report import write_report

    not_shown = write_report(store, out=out, run=run)
    echo(f"wrote {out}")
    if not_shown:
        passed_over = one_line("; ".join(not_shown))
        echo(
            f"note: not shown, as another version of conceptprune recorded it: {passed_over}",
            err=True,
        )


@app.command()
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
    from .commands.gc import collect_garbage

    collect_garbage(store, terminal(), yes=yes, forget=forget or (), grace_hours=grace)


def main(arguments: list[str] | None = None) -> None:
    """Run a command; bad input exits 2, a failed job, store or cluster 1, each with one message."""
    configure("plain")
    sys.excepthook = tell_traceback
    try:
        with stops_with_a_line():
            app(arguments)
    except UserError as error:
        tell_error(error)
        sys.exit(exits.BAD_INPUT)
    except (ClusterError, StoreError, NumericalError) as error:
        tell_error(error)
        sys.exit(exits.FAILED)
    except Exception as error:
        if not is_json():
            raise
        # A traceback of many lines would break a log of JSON lines.
        logger.critical("error: %s", type(error).__name__, exc_info=error)
        sys.exit(exits.FAILED)


if __name__ == "__main__":
    main()
