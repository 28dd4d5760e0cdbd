"""The units that make a job's images, for a plan."""

from collections.abc import Sequence

from conceptprune.digest import unit_key
from conceptprune.manifest import Preview
from conceptprune.manifest.model_settings import ModelSettings
from conceptprune.models.families import family_named
from conceptprune.models.prompt import Prompt
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
