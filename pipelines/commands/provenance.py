"""What an export's statement of provenance contains besides the digests of its files."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from conceptprune.checkpoints.card import Exported
from conceptprune.checkpoints.rewording_card import Rewording
from conceptprune.digest import digest_json
from conceptprune.masks.mask import PruningMask
from conceptprune.store import Commit
from conceptprune.versions import versions

from ..records.combined import How
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
    combined: Commit | None = None,
) -> dict[str, Any]:
    """The statement's predicate; `lacking` are concepts of the run without a mask, and the reasons.

    `combined` is the record of the mask if the run itself fused it from those of the parts.

    It depends only on the store and the options of `export`, so equal exports have equal
    statements.
    """
    mask = exported.mask
    return {
        **_of_run(record, exported.base_model, exported.revision, lacking),
        "concepts": [part.as_json() for part in parts],
        **({} if combined is None else {"combined": _combined("fused", combined, "mask")}),
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


def rewording_predicate(
    exported: Rewording,
    record: RunRecord,
    edit: Commit,
    sums: Mapping[str, Commit | None],
    lacking: Mapping[str, str],
) -> dict[str, Any]:
    """The same of a rewording, which is one edit of all its concepts.

    `sums` are the records of each concept's, None where they are no longer in the store; `lacking`
    are the run's concepts that are not in the edit, and the reasons.
    """
    return {
        **_of_run(record, exported.base_model, exported.revision, lacking),
        "concepts": [
            {
                "concept": name,
                "kind": exported.kinds.get(name),
                "sums": asdict(commit.objects["moments"]) if commit else None,
                "unit": commit.key if commit else None,
                "erased": edit.provenance.get("finished"),
            }
            for name, commit in sums.items()
        ],
        "combined": {
            **_combined("reworded", edit, "delta"),
            "settings": dict(exported.settings),
            "retained": list(exported.retained),
            "made_with": dict(exported.made_with),
        },
        "export": {
            "form": exported.form,
            "delta_sha256": exported.digest,
            "entries": exported.entries,
            "sealed": False,
        },
        "measurements": [asdict(measurement) for measurement in exported.measurements],
        "evaluations": [asdict(evaluation) for evaluation in exported.evaluations],
        "exported_with": versions(),
    }


def _of_run(
    record: RunRecord, base_model: str, revision: str | None, lacking: Mapping[str, str]
) -> dict[str, Any]:
    return {
        "base_model": {
            "name": base_model,
            "revision": revision,
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
        "lacking": [{"concept": name, "reason": why} for name, why in lacking.items()],
    }


def _combined(how: How, commit: Commit, role: str) -> dict[str, Any]:
    """What the run itself made of all concepts: in the store, and when (seconds since 1970)."""
    return {
        "how": how,
        "unit": commit.key,
        "object": asdict(commit.objects[role]),
        "made": commit.provenance.get("finished"),
    }
