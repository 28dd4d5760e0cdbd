"""The manifest that `tune` writes: the one it was given, with the strengths that it found."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from conceptprune.errors import UserError
from conceptprune.evaluation.job_manifest import JobManifest
from conceptprune.evaluation.suite import Suite
from conceptprune.manifest.concept_lists import written_out
from conceptprune.manifest.loading import MAX_BYTES, load_with_paths, parse_document
from conceptprune.manifest.strict_yaml import read_yaml
from conceptprune.strict_reading import read_regular

from ..console.logs import one_line

FIRST_LINE = "# Written by `conceptprune tune`"
"""How each such file begins: no other file is replaced by one."""
MOST_SEEDS = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Choosing:
    """What the strengths were chosen by, for the file's first lines."""

    suite: Suite
    sha256: str
    """Of the suite's file."""
    gone: float

    def comment(self, manifest: Path) -> str:
        """Who wrote the file, from what, and by which suite."""
        seeds = self.suite.generation.seeds
        more = " and more" if len(seeds) > MOST_SEEDS else ""
        lines = (
            f"{FIRST_LINE} from {manifest.name}: the least changes after which the suite",
            f"# {self.suite.name} sees what is erased in at most {self.gone:g} of its images.",
            f"# The suite's file has the SHA-256 {self.sha256}",
            f"# and the seeds {', '.join(map(str, seeds[:MOST_SEEDS]))}{more}: they chose, "
            "so judge the result by other seeds.",
        )
        return "".join(f"{one_line(line)}\n" for line in lines)


def check_out(out: Path | None, manifest: Path) -> None:
    """Check that a tuned manifest can be written there.

    Raises:
        UserError: it cannot, or would replace another file, or its paths would lead elsewhere.
    """
    if out is None:
        return
    if not out.parent.is_dir():
        raise UserError(f"--out {out}: {out.parent} is not a folder")
    try:
        with out.open("rb") as stream:
            ours = stream.read(len(FIRST_LINE)) == FIRST_LINE.encode()
    except FileNotFoundError:
        ours = True
    except OSError as error:
        raise UserError(f"--out {out}: cannot be written: {error.strerror}") from error
    if not ours:
        raise UserError(
            f"--out {out}: exists, and is not a manifest that tune wrote: name another file"
        )
    if out.parent.resolve() == manifest.parent.resolve():
        return
    _, named = load_with_paths(manifest, JobManifest)
    # Lists of concepts are written out.
    relative = [
        one for one in named if not Path(one.written).is_absolute() and one.field != "concepts"
    ]
    if relative:
        raise UserError(
            f"--out {out}: must be beside {manifest}, as paths in it are relative to its folder "
            f"({relative[0].field}: {relative[0].written}); give --out {manifest.parent / out.name}"
        )


def tuned_text(
    manifest: Path,
    choosing: Choosing,
    sparsities: Mapping[str, float],
    reword: Mapping[str, float] | None,
) -> str:
    """The manifest with the `sparsities` of some concepts, by name, or a rewording's strengths.

    Raises:
        UserError: the manifest cannot be read any more, or was changed meanwhile.
    """
    try:
        content = read_regular(manifest, MAX_BYTES).decode("utf-8-sig")
    except (OSError, ValueError) as error:
        raise UserError(f"{manifest} cannot be read any more: {error}") from error
    data: dict[str, Any] = read_yaml(content).data
    if isinstance(data["concepts"], dict):
        data["concepts"] = written_out(data["concepts"], manifest.parent)
    for entry in data["concepts"]:
        if entry["name"] in sparsities:
            own = {**(entry.get("pruning") or {}), "sparsity": sparsities[entry["name"]]}
            entry["pruning"] = own
    if reword is not None:
        data["reword"] = {**(data.get("reword") or {}), **reword}
    text = choosing.comment(manifest) + yaml.dump(
        data,
        Dumper=_Dumper,
        sort_keys=False,
        allow_unicode=True,
        default_flow_style=None,
        width=100,
    )
    _check(text, manifest, sparsities, reword)
    return text


def _check(
    text: str,
    manifest: Path,
    sparsities: Mapping[str, float],
    reword: Mapping[str, float] | None,
) -> None:
    """Check that a job that reads the text finds what was to be written."""
    found = parse_document(text, JobManifest, source=f"{manifest}, tuned", folder=manifest.parent)
    read = {
        concept.name: found.pruning_of(concept).sparsity
        for concept in found.concepts
        if concept.name in sparsities
    }
    strengths = dict(found.rewording or {}) if reword is not None else {}
    wrong = [name for name, value in (reword or {}).items() if strengths.get(name) != value]
    if read != dict(sparsities) or wrong:
        raise UserError(f"{manifest} was changed while it was tuned: run the command again")


class _Dumper(yaml.SafeDumper):
    """Writes what `strict_yaml` reads back as the same: no aliases, and 1e3 in quotes if a text."""

    def ignore_aliases(self, data: Any) -> bool:
        """Always: equal values are written out each time."""
        return True


_Dumper.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?[0-9]+[eE][-+]?[0-9]+$"), list("-+0123456789")
)
_Dumper.add_representer(
    float,
    # As short as Python writes it; YAML's own form of 1e-05 is 1.0e-05.
    lambda dumper, value: dumper.represent_scalar("tag:yaml.org,2002:float", f"{value!r}"),
)
