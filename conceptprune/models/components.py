"""Load a pipeline's components from their files; refuse incomplete ones, naming what is missing.

When a parameter is missing from the files, diffusers and transformers keep its random initial value
and only warn. Here it is an error, both in the check of the files' headers and at every load.
diffusers takes seconds to import, so it is imported only where it is used.
"""

import importlib
import json
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from conceptprune.errors import UserError
from conceptprune.models.weights import find_checkpoint
from conceptprune.strict_reading import read_regular
from conceptprune.versions import versions

INDEX = "model_index.json"
MOST_JSON_BYTES = 2**24
"""Limit for a config file."""
ABSENT = [None, None]
"""How model_index.json marks a component that the pipeline supports and this model lacks."""
LIBRARIES = ("diffusers", "transformers")
SHOWN_KEYS = 3
OLDER_NAMES = {r"^(embeddings|encoder|final_layer_norm)\.": r"text_model.\1."}
"""Renames the tensors of a CLIP text encoder saved by transformers 5 to what transformers 4
expects: it would otherwise find none of them and initialise all at random. transformers 5 reads
both."""

ADAPTER = (
    "names with base_layer or lora_ in them mean a pipeline that was saved with its adapter: call "
    "unload_lora_weights() before save_pretrained"
)
REASONS = (
    (("base_layer", "lora_"), ADAPTER),
    (("_orig_mod.",), "names with _orig_mod. in them mean a module saved as torch.compile gave it"),
    (
        ("absmax", "quant_map", "SCB", "qweight", "weight_scale"),
        "the file is quantised: use the model in float16, bfloat16 or float32",
    ),
    (("model.diffusion_model.",), "the file is a single-file checkpoint: name it as model.file"),
)
"""Parts of unexpected tensor names, and the likely reason for each."""


def read_index(folder: Path | str) -> dict[str, Any]:
    """The folder's model_index.json.

    Raises:
        UserError: it is missing, or names a pipeline that is not part of diffusers.
    """
    path = Path(folder) / INDEX
    try:
        index = json.loads(read_regular(path, MOST_JSON_BYTES))
        name = index["_class_name"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(
            f"model: {folder} is not a diffusers pipeline: cannot read {path} ({error!r})"
        ) from error
    if not isinstance(name, str):
        raise UserError(
            f"model: {path}: _class_name is {json.dumps(name)}, a pipeline with code of its own, "
            "which is not run; where one of diffusers' own pipelines does for the model, write its "
            "name there"
        )
    return dict(index)


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object in a file.

    Raises:
        UserError: it cannot be read, or is not an object.
    """
    try:
        content = json.loads(read_regular(path, MOST_JSON_BYTES))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"model: cannot read {path}: {error}") from error
    if not isinstance(content, dict):
        raise UserError(f"model: {path} is not a section of names and values")
    return content


def module_classes(
    folder: Path, index: Mapping[str, Any], not_needed: Collection[str]
) -> dict[str, type[nn.Module]]:
    """The class of each component that has weights and that the pipeline needs, by name.

    Raises:
        UserError: a class is not in the installed libraries, or is code shipped with the model.
    """
    found = {}
    for name, entry in index.items():
        if name in not_needed or not isinstance(entry, list) or None in entry:
            continue
        where = f"model: {folder / INDEX}: {name}"
        if len(entry) != 2 or not all(isinstance(part, str) for part in entry):
            raise UserError(f"{where} is {json.dumps(entry)}, not a library and a class")
        kind = _class_of(*entry, where=where)
        if issubclass(kind, nn.Module):
            found[name] = kind
    return found


def _class_of(library: str, name: str, *, where: str) -> type:
    module: Any
    if library in LIBRARIES:
        module = importlib.import_module(library)
    else:
        # diffusers defines some pipelines' component classes in the pipeline's own module.
        import diffusers

        module = getattr(diffusers.pipelines, library, None)
        if module is None:
            raise UserError(
                f"{where} is of {library}, which is neither {' nor '.join(LIBRARIES)}: code of a "
                "model's own is not run"
            )
    kind = getattr(module, name, None)
    if not isinstance(kind, type):
        version = importlib.import_module(
            "transformers" if library == "transformers" else "diffusers"
        )
        raise UserError(
            f"{where} is a {name}, which {version.__name__} {version.__version__} does not have"
        )
    return kind


def check_component(kind: Any, folder: Path) -> None:
    """Check that a component's files have every tensor that its class and config require.

    Only headers are read: the module is built on the meta device, without data. What was found to
    be right is not looked at again by this process unless a file's size or times have changed.

    Raises:
        UserError: a file is missing or damaged, or a tensor is missing or has another shape.
    """
    _check_component(kind, folder, _state(folder))


def _state(folder: Path) -> tuple[tuple[str, int, int, int, int], ...]:
    """What changes when anything changes in a folder's files."""
    found = ((path.name, path.stat()) for path in sorted(folder.glob("*")) if path.exists())
    return tuple(
        (name, at.st_ino, at.st_size, at.st_mtime_ns, at.st_ctime_ns) for name, at in found
    )


@lru_cache(maxsize=64)
def _check_component(kind: Any, folder: Path, _state: tuple[object, ...]) -> None:
    for path in find_checkpoint(folder).files:
        try:
            with safe_open(path, framework="pt") as stream:
                stream.keys()
        except (SafetensorError, OSError) as error:
            raise UserError(
                f"{path} is damaged or not a safetensors file ({error}): fetch it again"
            ) from error
    if (folder / "config.json").is_file():
        quantised = read_json(folder / "config.json").get("quantization_config")
        if quantised is not None:
            raise UserError(
                f"{folder / 'config.json'}: quantization_config: a quantised model cannot be "
                "pruned; use the model in float16, bfloat16 or float32"
            )
    _loaded(kind, folder, device_map="meta")


def parameter_names(folder: Path, component: str) -> frozenset[str]:
    """The tensors that a component of a pipeline's folder has once it is loaded.

    Raises:
        UserError: as `check_component`, or the pipeline has no such component.
    """
    others = read_index(folder).keys() - {component}
    kind = module_classes(folder, read_index(folder), others).get(component)
    if kind is None:
        raise UserError(f"model: {folder / INDEX}: no component {component} with weights")
    return frozenset(_loaded(kind, folder / component, device_map="meta").state_dict())


def load_component(kind: Any, folder: Path, dtype: torch.dtype, **how: Any) -> Any:
    """Load a component from its `from_pretrained` folder; memory-mapped if the files are in
    `dtype`.

    `kind` is its class, or a transformers auto class; `how` is passed on to `from_pretrained`.

    Raises:
        UserError: as `check_component`.
    """
    name = "dtype" if kind.__module__.startswith("transformers.") else "torch_dtype"
    return _loaded(kind, folder, **{name: dtype}, **how)


def _loaded(kind: Any, folder: Path, **how: Any) -> Any:
    checkpoint = find_checkpoint(folder)
    if kind.__module__.startswith("transformers."):
        # diffusers classes have no such option, and never run a model's own code.
        how["trust_remote_code"] = False
    variant = {} if checkpoint.variant is None else {"variant": checkpoint.variant}
    if kind.__name__.startswith("CLIPTextModel") and versions()["transformers"].startswith("4."):
        how["key_mapping"] = OLDER_NAMES
    try:
        with quiet():
            module, told = kind.from_pretrained(
                folder,
                use_safetensors=True,
                local_files_only=True,
                output_loading_info=True,
                # Reported below, by name.
                ignore_mismatched_sizes=True,
                low_cpu_mem_usage=True,
                **variant,
                **how,
            )
    # A wrong config can make a constructor raise anything.
    except Exception as error:
        reason = " ".join(str(error).split())
        raise UserError(f"cannot load a {kind.__name__} from {folder}: {reason}") from error
    check_told(told, checkpoint.title)
    return module


@contextmanager
def quiet() -> Iterator[None]:
    """Silence the libraries' tables of missing tensors; the error here says it in one line."""
    loggers = [importlib.import_module(f"{library}.utils.logging") for library in LIBRARIES]
    levels = [logger.get_verbosity() for logger in loggers]
    for logger in loggers:
        logger.set_verbosity_error()
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.set_verbosity(level)


def check_told(told: Mapping[str, Any], file: Path) -> None:
    """Refuse a module if its loader reports that some parameter did not come from the files.

    `told` is what `from_pretrained` returns with `output_loading_info`; `file` is what was read.

    Raises:
        UserError: names the first tensor that is missing or has another shape, and why.
    """
    mismatched = sorted(told["mismatched_keys"])
    if mismatched:
        name, found, wanted = mismatched[0]
        raise UserError(
            f"{file}: {name} is {list(found)} and its config.json calls for "
            f"{list(wanted)}{_more(len(mismatched))}: the file and the config belong to "
            "different models"
        )
    missing = sorted(told["missing_keys"])
    if missing:
        raise UserError(
            f"{file} has no tensor {missing[0]}{_more(len(missing))}: "
            f"{_reason(told['unexpected_keys'])}"
        )


def _more(count: int) -> str:
    return f" (and {count - 1} more)" if count > 1 else ""


def _reason(unexpected: Iterable[str]) -> str:
    names = sorted(unexpected)
    for parts, reason in REASONS:
        if any(part in name for name in names for part in parts):
            return reason
    if names:
        shown = ", ".join(names[:SHOWN_KEYS])
        return f"it has others instead ({shown}), as a file of another model or tool would"
    return "it was cut short when it was saved or converted, or its config is of another model"
