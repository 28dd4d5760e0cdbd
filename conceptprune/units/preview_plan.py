"""The units that make a job's images, for a plan."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain

from conceptprune.digest import digest_json, unit_key
from conceptprune.manifest import Concept, Manifest, Preview
from conceptprune.manifest.model_settings import ModelSettings
from conceptprune.models.families import family_named
from conceptprune.models.prompt import Prompt
from conceptprune.prompts.pairs import PromptPair
from conceptprune.units.preview import FORMAT
from conceptprune.units.reword_units import RewordUnit
from conceptprune.units.units import FusedMaskUnit, MaskUnit, PreviewUnit


def preview_unit(
    model: ModelSettings,
    edit: MaskUnit | FusedMaskUnit | RewordUnit | None,
    prompts: tuple[Prompt, ...],
    preview: Preview,
    before: tuple[PreviewUnit, ...] = (),
) -> PreviewUnit:
    """Images of the base model, or with an edit; `before` are the same ones without it."""
    settings = {
        "steps": preview.steps,
        "guidance": preview.guidance,
        "batch_size": preview.batch_size,
    }
    texts = [[prompt.text, prompt.seed] for prompt in prompts]
    key = unit_key(
        {
            "kind": "preview",
            "format": FORMAT,
            **model.key_parts,
            "mask": edit and edit.key,
            "prompts": texts,
            **settings,
        }
    )
    return PreviewUnit(
        key=key,
        mask=(edit.kind, edit.key) if edit else None,
        erased=edit.erased if edit else (),
        prompts=prompts,
        steps=preview.steps,
        guidance=preview.guidance,
        branches=family_named(model.pipeline).num_branches(preview.guidance),
        batch_size=preview.batch_size,
        before=tuple(unit.key for unit in before),
    )


def with_seeds(prompts: Sequence[Prompt], preview: Preview) -> tuple[Prompt, ...]:
    """Each prompt with each of the preview's seeds, which differ from the collection's."""
    texts = dict.fromkeys(prompt.text for prompt in prompts)
    return tuple(Prompt(text=text, seed=seed) for seed in preview.seeds for text in texts)


def retained_beside(concept: Concept, manifest: Manifest) -> list[Concept]:
    """The concepts to retain while `concept` is erased (which may itself be in the list)."""
    return [other for other in manifest.retain if other.name != concept.name]


@dataclass(frozen=True)
class Previews:
    """The images that a manifest asks for; `pairs` are prompt pairs by concept name."""

    manifest: Manifest
    model: ModelSettings
    pairs: Mapping[str, tuple[PromptPair, ...]]

    def of(
        self, concept: Concept, mask: MaskUnit, preview: Preview
    ) -> tuple[tuple[PreviewUnit, ...], PreviewUnit | None]:
        """A concept's images of the base model, and with its own mask if those are asked for."""
        groups = self._groups(concept, preview)
        if preview.of == "combined":
            own = set(groups[0])
            return tuple(unit for unit in self.shared if own & set(unit.prompts)), None
        before = tuple(preview_unit(self.model, None, group, preview) for group in groups)
        every_prompt = tuple(dict.fromkeys(chain.from_iterable(groups)))
        return before, preview_unit(self.model, mask, every_prompt, preview, before)

    @cached_property
    def shared(self) -> tuple[PreviewUnit, ...]:
        """Where only combined images are asked for: the base model's, a batch a unit.

        What stays comes first, so that a late concept changes the last batch alone.
        """
        preview = self.manifest.outputs.preview
        if preview is None or preview.of != "combined":
            return ()
        groups = [self._groups(each, preview) for each in self.manifest.concepts]
        stays = chain.from_iterable(group for of_one in groups for group in of_one[1:])
        own = chain.from_iterable(of_one[0] for of_one in groups)
        prompts = tuple(dict.fromkeys((*stays, *own)))
        size = preview.batch_size
        return tuple(
            preview_unit(self.model, None, prompts[first : first + size], preview)
            for first in range(0, len(prompts), size)
        )

    def _groups(self, concept: Concept, preview: Preview) -> list[tuple[Prompt, ...]]:
        """A concept's targets, its base prompts, and targets of each concept to retain."""
        pairs = self.pairs[concept.name][: preview.prompts_per_concept]
        groups = [with_seeds([pair.target for pair in pairs], preview)]
        groups.append(with_seeds([pair.base for pair in pairs], preview))
        for other in retained_beside(concept, self.manifest):
            targets = [pair.target for pair in self.pairs[other.name]]
            # Retained concepts start at different fillers, so that all fillers are used.
            start = int(digest_json(other.name), 16) % len(targets)
            chosen = (targets[start:] + targets[:start])[: preview.retained_prompts]
            groups.append(with_seeds(chosen, preview))
        return groups
