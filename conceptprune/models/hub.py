"""Models of the Hugging Face hub: their safetensors files, at a pinned revision."""

from collections.abc import Sequence
from pathlib import Path

from conceptprune.errors import StoreError, UserError

NOT_FETCHED = ("*.fp16.*", "*.fp16-*", "*.non_ema.*")
"""Variants of weights; fetched only where a component has nothing else."""
REFUSALS = (401, 403, 404)
"""Answers of the hub that trying again does not change."""


def fetched_from_hub(name: str, revision: str, files: Sequence[str]) -> Path:
    """This machine's copy of the files of `name` at `revision` that match a pattern of `files`.

    Raises:
        UserError: there is no such model or revision, or it is not open to this machine.
        StoreError: the hub cannot be reached just now.
    """
    # Imported here: only a hub model needs it, and it is slow to import.
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError

    def fetch(wanted: Sequence[str], but: Sequence[str]) -> Path:
        return Path(
            snapshot_download(
                name,
                revision=revision,
                allow_patterns=list(wanted),
                ignore_patterns=list(but),
            )
        )

    try:
        folder = fetch(files, NOT_FETCHED)
        if variants := _variants_of(_without_weights(folder)):
            fetch(variants, ())
        return folder
    # The hub's own errors, and those of the library behind it.
    except Exception as error:
        # Where it has no copy to go by, the library wraps the hub's answer.
        answer = error if isinstance(error, HfHubHTTPError) else error.__cause__
        refused = isinstance(answer, HfHubHTTPError) and answer.response.status_code in REFUSALS
        kind = UserError if refused else StoreError
        raise kind(f"model: cannot fetch {name} at {revision} from the hub: {error}") from error


def _without_weights(folder: Path) -> list[str]:
    """The components of a pipeline's folder that have a config and no safetensors file."""
    return sorted(
        path.parent.name
        for path in folder.glob("*/config.json")
        if not any(path.parent.glob("*.safetensors"))
    )


def _variants_of(components: Sequence[str]) -> list[str]:
    """Patterns of the files that those components may have as a variant only."""
    return [
        f"{name}/{file}"
        for name in components
        for file in ("*.safetensors", "*.safetensors.index.*.json")
    ]
