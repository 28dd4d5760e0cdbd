"""The command line: from a manifest to masks and checkpoints, and from a suite to numbers."""

import sys
from typing import Annotated

import typer

from conceptprune import __version__
from conceptprune.errors import ClusterError, NumericalError, StoreError, UserError

from ..baselines.cli import app as baseline
from ..console import exits
from ..console.logs import configure, is_json, logger, tell_error
from ..console.stopping import Commands, stops_with_a_line
from ..console.terminal import (
    echo,
    output_that_may_be_full,
    survive_narrow_encodings,
    tell_traceback,
)
from . import jobs, manifests, stores

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

for command in (
    manifests.init,
    manifests.schema,
    manifests.diff,
    manifests.validate,
    manifests.plan,
    jobs.erase,
    jobs.sweep,
    jobs.tune,
    jobs.evaluate,
    jobs.attack,
    jobs.submit,
    stores.status,
    stores.export,
    stores.verify,
    stores.report,
    stores.gc,
):
    app.command()(command)
app.add_typer(baseline, name="baseline")


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


def main(arguments: list[str] | None = None) -> None:
    """Run a command; bad input exits 2, a failed job, store or cluster 1, each with one message."""
    configure("plain")
    sys.excepthook = tell_traceback
    survive_narrow_encodings()
    try:
        with stops_with_a_line(), output_that_may_be_full():
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
