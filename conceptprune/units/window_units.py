"""The units that collect one side's statistics: windows of its shards, and their reduction."""

from conceptprune.collection.window import Window
from conceptprune.digest import unit_key
from conceptprune.manifest import Collection
from conceptprune.manifest.model_settings import ModelSettings
from conceptprune.models.families import family_named
from conceptprune.models.prompt import Prompt
from conceptprune.prompts.pairs import prompts_digest
from conceptprune.units.units import StatisticsUnit, WindowUnit


def window_units(
    model: ModelSettings,
    prompts: tuple[Prompt, ...],
    collection: Collection,
    site: str | tuple[str, ...],
) -> tuple[StatisticsUnit, tuple[WindowUnit, ...]]:
    """The units of one side: its shards' windows, and the reduction over them."""
    common = {**model.key_parts, **collection.sum_parts, "site": site}
    length = collection.window or collection.tau
    branches = family_named(model.pipeline).num_branches(collection.guidance)
    grid: list[tuple[str, ...]] = []
    units: list[WindowUnit] = []
    for first in range(0, len(prompts), collection.shard_prompts):
        shard = prompts[first : first + collection.shard_prompts]
        shard_json = [[prompt.text, prompt.seed] for prompt in shard]
        keys: list[str] = []
        for start in range(0, collection.tau, length):
            stop = min(start + length, collection.tau)
            last = stop == collection.tau
            # The key does not name earlier windows: they cannot change a bit of this one. It does
            # say whether state is kept, because a unit's objects must follow from its key.
            key = unit_key(
                {
                    "kind": "window",
                    **common,
                    "prompts": shard_json,
                    "window": [start, stop],
                    "keeps_state": not last,
                }
            )
            units.append(
                WindowUnit(
                    key=key,
                    prompts=shard,
                    window=Window(start, stop),
                    collection=collection,
                    site=site,
                    branches=branches,
                    previous=keys[-1] if keys else None,
                    last=last,
                )
            )
            keys.append(key)
        grid.append(tuple(keys))
    every_prompt = [[prompt.text, prompt.seed] for prompt in prompts]
    side = StatisticsUnit(
        key=unit_key(
            {
                "kind": "statistics",
                **common,
                "prompts": every_prompt,
                "tau": collection.tau,
                "shard_prompts": collection.shard_prompts,
            }
        ),
        grid=tuple(grid),
        num_prompts=len(prompts),
        num_calls=collection.tau,
        prompts_digest=prompts_digest(prompts),
    )
    return side, tuple(units)
