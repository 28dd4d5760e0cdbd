"""What an export's statement of provenance contains besides the digests of its files."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from conceptprune.checkpoints.card import Exported
from conceptprune.digest import digest_json
from conceptprune.masks.mask import PruningMask
from conceptprune.store import Commit
from conceptprune.versions import versions

from ..records.run_record import RunRecord


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One concept that is erased in an export."""

    mask: PruningMask
    commit: Commit
    """Commit record of the mask's unit."""

    def as_json(self) -> dict[str, Any]:
        """Where its mask is, what decided it, and when it was made (seconds since 1970)."""
        made = self.mask.provenance
        return {
            "concept": self.mask.concepts[0],
            "kind": made.get("kind"),
            "mask": asdict(self.commit.objects["mask"]),
            "unit": self.commit.key,
            "erased": self.commit.provenance.get("finished"),
            "prompts_sha256": made.get("prompts_digest"),
            "selector": made.get("selector"),
            "selection": made.get("selection"),
            "collection": made.get("collection"),
            "seed": made.get("seed"),
            "made_with": made.get("versions"),
        }


def predicate(
    exported: Exported,
    record: RunRecord,
    parts: Sequence[Part],
    lacking: Mapping[str, str],
) -> dict[str, Any]:
    """The statement's predicate; `lacking` are concepts of the run without a mask, and the reasons.

    It depends only on the store and the options of `export`, so equal exports have equal
    statements.
    """
    mask = exported.mask
    return {
        "base_model": {
            "name": exported.base_model,
            "revision": exported.revision,
            "digest": record.model_identity,
            "pipeline": record.pipeline,
        },
        "run": {
            "id": record.run,
            "started": record.started,
            "first_started": record.first_started,
            "version": record.version,
        },
        "manifest": {"sha256": digest_json(record.manifest), "content": record.manifest},
        "concepts": [part.as_json() for part in parts],
        "lacking": [{"concept": name, "reason": why} for name, why in lacking.items()],
        "export": {
            "form": exported.form,
            "fusion": mask.provenance.get("fusion"),
            "mask_sha256": mask.digest,
            "entries": mask.num_entries,
            "site_weights": mask.num_weights,
            "sealed": exported.sealed,
        },
        "measurements": [asdict(measurement) for measurement in exported.measurements],
        "evaluations": [asdict(evaluation) for evaluation in exported.evaluations],
        "exported_with": versions(),
    }
