"""Arguments and options that several commands have."""

from pathlib import Path
from typing import Annotated

import typer


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
        help="Prompts, captions and lists of concepts may be in files of this folder, too, and not "
        "only beside the manifest or suite; may be given several times.",
    ),
]
JsonOption = Annotated[
    bool,
    typer.Option("--json", help="One JSON document on standard output; all else on the other."),
]
RunOption = Annotated[str | None, typer.Option("--run", help="A run's id; the newest by default.")]
