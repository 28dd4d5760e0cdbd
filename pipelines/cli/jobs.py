"""The commands that run a job, here or on a cluster."""

from pathlib import Path
from typing import Annotated

import typer

from ..console.terminal import tell_json, terminal
from .options import FilesFromOption, JsonOption, LogFormatOption, ManifestPath, StoreUri

GONE, HOLD = 0.05, 0.95
GoneOption = Annotated[
    float,
    typer.Option("--gone", help="The share of its images that may still show a concept."),
]
HoldOption = Annotated[
    float,
    typer.Option(
        "--hold", help="The share that must be left of what is right in the other images."
    ),
]
ValuesOption = Annotated[
    str | None,
    typer.Option(
        "--values",
        metavar="A,B,...",
        help="The sparsities to choose from, by default 0.0025 to 0.16; with method: reword "
        "factors of its strengths, by default 8 to 0.125.",
    ),
]


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
    from ..jobs.erase import erase as run

    raise typer.Exit(run(manifest, store, terminal(), log_format, verify=verify))


def sweep(
    manifest: ManifestPath,
    store: StoreUri,
    log_format: LogFormatOption = None,
    files_from: FilesFromOption = None,
    as_json: JsonOption = False,
) -> None:
    """Compare the settings under sweep: from one collection; writes a table, erases nothing."""
    from ..jobs.sweep import sweep as run

    tell = tell_json if as_json else None
    raise typer.Exit(run(manifest, store, terminal(stderr=as_json), log_format, tell))


def tune(
    manifest: ManifestPath,
    suite: Annotated[Path, typer.Argument(help="The suite that chooses, a YAML file.")],
    store: StoreUri,
    out: Annotated[
        Path | None,
        typer.Option("--out", help="The tuned manifest to write; the store gets it in any case."),
    ] = None,
    gone: GoneOption = GONE,
    hold: HoldOption = HOLD,
    values: ValuesOption = None,
    log_format: LogFormatOption = None,
    files_from: FilesFromOption = None,
    as_json: JsonOption = False,
) -> None:
    """Find each concept's least strength after which a suite sees it no more; resumable."""
    from ..jobs.tune import tune as run

    console = terminal(stderr=as_json)
    tell = tell_json if as_json else None
    code = run(
        manifest,
        suite,
        store,
        console,
        log_format,
        out=out,
        gone=gone,
        hold=hold,
        values=values,
        tell=tell,
    )
    raise typer.Exit(code)


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
    from ..jobs.evaluate import evaluate as run

    tell = tell_json if as_json else None
    raise typer.Exit(run(suite, store, of, terminal(stderr=as_json), log_format, tell))


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
    from ..jobs.attack import attack as run

    raise typer.Exit(run(suite, store, of, names, terminal(), log_format))


def submit(
    first: Annotated[
        str,
        typer.Argument(
            metavar="MANIFEST|COMMAND",
            help="The manifest to erase by; or erase, sweep, tune, evaluate or attack, and then "
            "FILE.",
        ),
    ],
    store: StoreUri,
    file: Annotated[
        Path | None,
        typer.Argument(metavar="FILE", help="The COMMAND's manifest or suite."),
    ] = None,
    suite: Annotated[
        Path | None, typer.Argument(metavar="SUITE", help="Of tune: the suite that chooses.")
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
    gone: Annotated[float | None, typer.Option("--gone", help="As of tune.")] = None,
    hold: Annotated[float | None, typer.Option("--hold", help="As of tune.")] = None,
    values: Annotated[
        str | None, typer.Option("--values", metavar="A,B,...", help="As of tune.")
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
    from ..submit.submission import Submission, command_and_file
    from ..submit.submit import submit as run

    command, path = command_and_file(first, file)
    submission = Submission.of(
        path,
        store,
        working_dir,
        log_format,
        command=command,
        of=of or (),
        attacks=names or (),
        suite=suite,
        tuning={
            name: value
            for name, value in (("gone", gone), ("hold", hold), ("values", values))
            if value is not None
        },
        files_from=files_from or (),
    )
    raise typer.Exit(run(submission, address=address))
