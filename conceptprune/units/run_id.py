"""The identity of a run of `erase` or `sweep`."""

from typing import Any

from conceptprune.digest import digest_json
from conceptprune.manifest import Manifest
from conceptprune.manifest.model_settings import ModelSettings
from conceptprune.manifest.outputs import SCORER_PLACES


def run_id(manifest: Manifest, model: ModelSettings) -> str:
    """Identity of a run: what the manifest requests from which model, not how it is computed."""
    without: dict[str, Any] = {"compute": True, "model": True}
    if manifest.sweep is None:
        without["sweep"] = True
    asked_of: dict[str, Any] = {}
    preview = manifest.outputs.preview
    if preview:
        # Without what is new, the id is the same as in versions before.
        places = {"__all__": set(SCORER_PLACES)}
        unasked: dict[str, Any] = {"scorers": places if preview.scorers else True}
        if preview.of == "each":
            unasked["of"] = True
        without["outputs"] = {"preview": unasked}
    if manifest.method == "conceptprune":
        # The id is the same as in versions before there were methods.
        without |= {"method": True, "reword": True}
    else:
        asked_of["reword"] = manifest.rewording and manifest.rewording.asked
        without["reword"] = True
    if manifest.prompts.generator is None:
        without["prompts"] = True
    else:
        without["prompts"] = {"generator": {"model"}}
        asked_of["language_model"] = model.language_model
    asked = manifest.model_dump(mode="json", exclude=without)
    for concept, entry in zip(manifest.concepts, asked["concepts"], strict=True):
        # The concept's effective settings, wherever they are written; the manifest's are included
        # above.
        entry.pop("pruning")
        pruning = manifest.pruning_of(concept)
        if pruning != manifest.pruning:
            entry["pruning"] = pruning.selection | {"selector": pruning.selector}
    return digest_json({"manifest": asked, **model.key_parts, **asked_of})[:16]
