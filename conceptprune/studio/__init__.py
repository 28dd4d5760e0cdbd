"""A small text-to-image model that ships with the project, to see erasure work on."""

from pathlib import Path

LABEL = "studio"
"""What manifests, masks and cards call it."""


def model_path() -> Path:
    """Folder of the shipped StableDiffusionPipeline, for `from_pretrained`."""
    return Path(__file__).parent / "model"
