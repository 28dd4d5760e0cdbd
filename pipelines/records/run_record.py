"""What a run of `erase` or `sweep` was asked to do, as the store remembers it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from conceptprune import __version__
from conceptprune.digest import METHOD_VERSION, canonical_json
from conceptprune.store import Store

from .asked import Asked
from .fields import count_field, field, is_later, json_object, time_field
from .run_files import first_started, told_if_damaged

RUN_FILE = "run.json"
RUN_FORMAT = "conceptprune.run/1"


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRecord:
    """What a run was asked to do; written before any work, so that `status` can show it."""

    run: str
    manifest: Mapping[str, Any]
    """As validated, but without the model, whose folder depends on the machine."""
    model_label: str
    model_identity: str
    pipeline: str
    """The model's diffusers pipeline class."""
    denoiser_weights: int
    started: float
    """When its last job began, in seconds since 1970."""
    first_started: float | None = None
    """When its first job began; None if not recorded."""
    language_model: str | None = None
    """Digest of the language model that wrote fillers, if one did."""
    version: str = ""
    """Of conceptprune; empty if not recorded."""
    method: int = METHOD_VERSION
    """Of the method (`METHOD_VERSION`): results of another one are not used again."""
    later: bool = False
    """Whether a later version wrote it, in a format that may have more or other fields."""

    @property
    def asked(self) -> Asked:
        """The manifest, as plain values."""
        return Asked(self.manifest)

    def write(self, store: Store) -> None:
        """Write or replace the record; `first_started` is kept from an earlier one."""
        content = {
            "format": RUN_FORMAT,
            "run": self.run,
            "manifest": self.manifest,
            "model": {
                "label": self.model_label,
                "identity": self.model_identity,
                "pipeline": self.pipeline,
            },
            "language_model": self.language_model,
            "denoiser_weights": self.denoiser_weights,
            "started": self.started,
            "first_started": first_started(store, self.run, RUN_FILE, self.started),
            "version": __version__,
            "method": self.method,
        }
        store.write_run_file(self.run, RUN_FILE, canonical_json(content).encode())

    @classmethod
    def read(cls, store: Store, run: str) -> "RunRecord":
        """The record of `run`, written by any version.

        Raises:
            KeyError: the store has no such run.
            StoreError: it is damaged.
        """
        data = store.read_run_file(run, RUN_FILE)
        if data is None:
            raise KeyError(run)
        with told_if_damaged(store, run, RUN_FILE):
            content = json_object(data)
            later = is_later(content, RUN_FORMAT)
            # Fields that a later version writes differently are left out.
            model = field(content, "model", dict, {} if later else None)
            return cls(
                run=run,
                manifest=field(content, "manifest", dict, {} if later else None),
                model_label=field(model, "label", str, "not known" if later else None),
                model_identity=field(model, "identity", str, "" if later else None),
                # The first versions knew only one family and did not record it.
                pipeline=field(model, "pipeline", str, "StableDiffusionPipeline"),
                denoiser_weights=count_field(content, "denoiser_weights", 0 if later else None),
                started=time_field(content, "started", 0.0 if later else None),
                first_started=time_field(content, "first_started", 0.0) or None,
                language_model=field(content, "language_model", str, "") or None,
                version=field(content, "version", str, ""),
                # Not recorded in version 1.
                method=count_field(content, "method", 1),
                later=later,
            )
