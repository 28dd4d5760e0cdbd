"""The manifest: a YAML file, strictly checked before any work, that says what to erase and how."""

from conceptprune.manifest.loading import load_manifest, parse_manifest
from conceptprune.manifest.schema import (
    BuiltinModel,
    Collection,
    Compute,
    Concept,
    Direction,
    FillerPair,
    FolderModel,
    HubModel,
    Kind,
    Manifest,
    Outputs,
    Preview,
    PromptTexts,
    Pruning,
    concept_key,
)

__all__ = [
    "BuiltinModel",
    "Collection",
    "Compute",
    "Concept",
    "Direction",
    "FillerPair",
    "FolderModel",
    "HubModel",
    "Kind",
    "Manifest",
    "Outputs",
    "Preview",
    "PromptTexts",
    "Pruning",
    "concept_key",
    "load_manifest",
    "parse_manifest",
]
