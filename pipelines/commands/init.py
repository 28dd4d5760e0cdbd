"""`conceptprune init`: write a commented manifest to start from, with a list of names if given."""

import os
import shlex
from pathlib import Path

from conceptprune.errors import UserError
from conceptprune.manifest import parse_manifest
from conceptprune.manifest.files import also_allowed

TEMPLATE = """\
# What to erase from which model. Check it with `conceptprune validate {name}`, see what it costs
# with `conceptprune plan {name}`, and run it with `conceptprune erase {name} --store runs/first`.
version: 1

# The studio model, which ships with conceptprune. A model of your own is one of
#   {{folder: path/of/a/from_pretrained/folder}}
#   {{file: model.safetensors, config: path/of/its/configs}}
#   {{uri: s3://bucket/models/name}}
#   {{hub: organisation/name, revision: the commit's 40 hexadecimal digits}}
model: {{builtin: studio}}

{concepts}

# Concepts to keep: generated before and after where outputs.preview is asked for.
# retain:
#   - {{name: imra dovel, kind: style}}

# What the studio model can generate. Leave this out for another model: there are published lists.
fillers:
  style: [cat, dog, car, tree, house, fish, duck, flower, boat, apple, rocket, mushroom]

# The first `tau` of `steps` denoiser calls are watched. Published for Stable Diffusion: 50 and 10.
collection: {{steps: 20, tau: 10, guidance: 5.0}}

# The share of each row's weights that a single call may select: 0.01 is 1 %.
pruning: {{sparsity: 0.01}}

outputs:
  # The edited tensors of each concept, beside its mask.
  deltas: false
  # All concepts in one mask: union, retain-shared or budget; null for none.
  fuse: null
  # Images before and after for the report: {{}} for the defaults, null for none.
  preview: null

# On GPUs: gpus_per_actor: 1.
compute: {{actors: 2, cpus_per_actor: 1.0, gpus_per_actor: 0.0}}
"""

EXAMPLES = """\
# What to erase. Kinds are style, nudity, object, bias, memorised and custom. Names can also be in a
# file: concepts: {file: names.csv}, with columns name and kind; or {file: names.txt, kind: style}.
concepts:
  - {name: vorla brint, kind: style}
  - {name: kesto malu, kind: style}"""

LISTED = """\
# What to erase: a name per row. A CSV may have a column kind, and settings of each concept's own.
{allowed}concepts: {{file: {file}{kind}}}"""
ALLOWED = """\
# The list does not lie below this manifest's folder, so each command must allow its folder:
# --files-from FOLDER.
"""


def write_manifest(out: Path, names: Path | None, kind: str | None) -> tuple[int, str]:
    """Write a valid manifest.

    Returns:
        How many concepts it erases, and the command that checks it.

    Raises:
        UserError: `out` exists, the list cannot be used, or nothing can be written there.
    """
    if kind is not None and names is None:
        raise UserError("--kind: of the names in a list: also give --from FILE")
    if not out.name.isprintable():
        raise UserError(f"{out}: has line breaks or control characters in its name")
    next_command = ["conceptprune", "validate", str(out)]
    lists = out.parent if names is None else names.resolve().parent
    elsewhere = not lists.resolve().is_relative_to(out.parent.resolve())
    if elsewhere:
        next_command += ["--files-from", str(lists)]
    text = TEMPLATE.format(name=out.name, concepts=_concepts(out, names, kind, elsewhere))
    # Who names the list here allows its folder, and who runs the manifest must do so again.
    with also_allowed(lists):
        manifest = parse_manifest(text, source=str(out), folder=out.parent)
    try:
        with out.open("x", encoding="utf-8") as stream:
            stream.write(text)
    except FileExistsError as error:
        raise UserError(f"{out} exists already: name another file, or remove it") from error
    except OSError as error:
        raise UserError(f"{out} cannot be written: {error.strerror}") from error
    return len(manifest.concepts), shlex.join(next_command)


def _concepts(out: Path, names: Path | None, kind: str | None, elsewhere: bool) -> str:
    if names is None:
        return EXAMPLES
    # The path must be relative to the manifest.
    # By real paths: of a link's folder, `..` is where the link leads.
    file = names
    if not names.is_absolute():
        file = Path(os.path.relpath(names.resolve(), out.parent.resolve()))
    kind_of_all = "" if kind is None else f", kind: {_quoted(kind)}"
    allowed = ALLOWED if elsewhere else ""
    return LISTED.format(file=_quoted(file.as_posix()), kind=kind_of_all, allowed=allowed)


def _quoted(text: str) -> str:
    """A text as YAML reads it back, whatever its characters."""
    return "'" + text.replace("'", "''") + "'"
