"""The manifest: a YAML file that says what to erase and how, strictly checked before any work."""

from conceptprune.manifest.collection import Collection
from conceptprune.manifest.concept import Concept, Direction, FillerPair, Kind, PromptTexts
from conceptprune.manifest.fields import concept_key
from conceptprune.manifest.generator import Generator
from conceptprune.manifest.loading import load_manifest, parse_manifest
from conceptprune.manifest.model import BuiltinModel, FileModel, FolderModel, HubModel, RemoteModel
from conceptprune.manifest.outputs import Fuse, FuseName, Outputs, Preview
from conceptprune.manifest.pruning import BaseRule, Pruning, SelectorName
from conceptprune.manifest.reword import Method, Reword
from conceptprune.manifest.schema import Compute, Manifest, Sweep

__all__ = [
    "BaseRule",
    "BuiltinModel",
    "Collection",
    "Compute",
    "Concept",
    "Direction",
    "FileModel",
    "FillerPair",
    "FolderModel",
    "Fuse",
    "FuseName",
    "Generator",
    "HubModel",
    "Kind",
    "Manifest",
    "Method",
    "Outputs",
    "Preview",
    "PromptTexts",
    "Pruning",
    "RemoteModel",
    "Reword",
    "SelectorName",
    "Sweep",
    "concept_key",
    "load_manifest",
    "parse_manifest",
]
