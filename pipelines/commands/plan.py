"""`conceptprune plan`: what a manifest would cost, without running or writing anything."""

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from math import ceil
from pathlib import Path
from statistics import median
from typing import Any

import torch
from rich.console import Console
from rich.filesize import decimal
from rich.table import Table

from conceptprune.models.families import components, family_named
from conceptprune.store import Store
from conceptprune.units.plan import ConceptPlan, Plan
from conceptprune.units.sizes import Sizes
from conceptprune.units.unit import Unit
from conceptprune.units.units import (
    GeneratedPromptsUnit,
    StatisticsUnit,
    WindowUnit,
)

from ..console.logs import say
from ..jobs.preparation import Prepared, count_weights, plan_here, prepare
from ..jobs.sizes import sizes_of
from ..scheduling.graph import committed_in, units_to_do
from .estimate import Estimate, check_prices
from .plan_json import plan_document

SHOWN_CONCEPTS = 8
TIMED_CALLS = 3


def show_plan(
    manifest: Path,
    store: str | None,
    *,
    calibrate: bool,
    console: Console,
    rate: float | None = None,
    gpu_hour: float | None = None,
) -> dict[str, Any]:
    """Print what the manifest requests and costs, and with `store` what is left to do.

    `rate` is a worker's known speed in denoiser evaluations per second, which then is not measured;
    `gpu_hour` is the price of a GPU-hour, in any currency.

    Returns:
        The same as a document, for programs.

    Raises:
        UserError: the manifest is wrong, the model does not exist, or a price is given without a
        speed.
    """
    check_prices(rate, gpu_hour, calibrate=calibrate)
    prepared = prepare(manifest)
    opened = None if store is None else Store(store)
    plan = plan_here(prepared, opened)
    units: list[Unit] = [*prepared.prompts_units(), *plan.units()]
    todo = None
    if opened is not None:
        whole = replace(plan, by_key={unit.key: unit for unit in units})
        todo = {unit.key for unit in units_to_do(whole, committed_in(opened))}
    sizes = sizes_of(prepared)
    _print_heading(prepared, plan, console)
    _print_cluster(prepared, plan, sizes, console)
    unwritten = [
        unit
        for unit in units
        if isinstance(unit, GeneratedPromptsUnit) and (todo is None or unit.key in todo)
    ]
    if unwritten:
        say(
            console,
            f"fillers   {unwritten[0].generator.model.label} is yet to write those of "
            f"{len(unwritten):,} concepts; below, none of them are taken to be shared",
        )
    console.print(_sides_table(plan), "")
    console.print(units_table(units, todo, sizes), "")
    if todo is not None:
        count = f"{len(todo):,} of {len(units):,} units are left" if todo else "nothing to compute"
        say(console, f"store {store}: {count}")
    left = [unit for unit in units if todo is None or unit.key in todo]
    document = plan_document(plan, units, left, sizes)
    if calibrate or rate is not None:
        speed = evaluations_per_second(prepared, plan) if rate is None else rate
        estimate = Estimate.of(left, prepared.manifest.compute, speed, gpu_hour)
        say(console, estimate.line(measured=rate is None))
        document["estimate"] = estimate.as_json()
    return document


def _print_heading(prepared: Prepared, plan: Plan, console: Console) -> None:
    names = [concept.concept.name for concept in plan.concepts]
    kinds = Counter(concept.concept.kind for concept in plan.concepts)
    shown = ", ".join(names[:SHOWN_CONCEPTS])
    if len(names) > SHOWN_CONCEPTS:
        shown += f" and {len(names) - SHOWN_CONCEPTS} more"
    by_kind = ", ".join(f"{count} {kind}" for kind, count in kinds.items())
    prompts = {prompt for window in plan.of(WindowUnit).values() for prompt in window.prompts}
    say(console, f"run       {plan.run}")
    say(console, f"model     {prepared.model.source.label}")
    say(console, f"concepts  {len(names)} ({by_kind}): {shown}")
    say(console, f"prompts   {len(prompts):,} to collect")


def _print_cluster(prepared: Prepared, plan: Plan, sizes: Sizes, console: Console) -> None:
    """Print what a cluster needs to run all actors at once."""
    compute = prepared.manifest.compute
    folder = prepared.model.folder()
    parts = [folder / name for name in components(folder)]
    numbers = sum(count_weights(part) for part in parts if any(part.glob("*.safetensors")))
    weights = numbers * sizes.item_bytes
    windows = plan.of(WindowUnit).values()
    statistics = max(window.bytes_written(sizes, plan.by_key) for window in windows)
    cluster = "none: the job's own process does everything"
    if compute.actors:
        cluster = (
            f"{compute.actors} actors of {compute.cpus_per_actor:g} CPUs and "
            f"{compute.gpus_per_actor:g} GPUs, and 1 CPU or more for tasks: in all "
            f"{ceil(compute.actors * compute.cpus_per_actor) + 1} CPUs, "
            f"{compute.actors * compute.gpus_per_actor:g} GPUs"
        )
    say(console, f"cluster   {cluster}")
    say(
        console,
        f"memory    a worker, estimated: {decimal(weights)} of weights in {prepared.model.dtype}, "
        f"{decimal(statistics)} of statistics, and a batch's activations",
    )
    console.print()


def _sides_table(plan: Plan) -> Table:
    """What is collected, in order of first use; a shared side occurs once."""
    table = _table("sides", "distinct", "for concepts", "prompts", "evaluations")
    sides, of_window = plan.of(StatisticsUnit), plan.of(WindowUnit)
    seen: set[str] = set()
    for role, sides_of in _ROLES.items():
        asked = [key for concept in plan.concepts for key in sides_of(concept)]
        askers = sum(bool(sides_of(concept)) for concept in plan.concepts)
        if not asked:
            continue
        fresh = [sides[key] for key in dict.fromkeys(asked) if key not in seen]
        windows = {key for side in fresh for key in _windows(side)} - seen
        seen |= {side.key for side in fresh} | windows
        also = len(set(asked)) - len(fresh)
        table.add_row(
            f"{role} ({also} also above)" if also else role,
            f"{len(set(asked)):,}",
            f"{askers:,}",
            f"{sum(side.num_prompts for side in fresh):,}",
            f"{sum(of_window[key].evaluations for key in windows):,}",
        )
    return table


_ROLES: dict[str, Callable[[ConceptPlan], tuple[str, ...]]] = {
    "target": lambda concept: (concept.target.key,),
    "base": lambda concept: (concept.base.key,),
    "retained": lambda concept: concept.mask.retained,
}


def _windows(side: StatisticsUnit) -> Iterator[str]:
    return (key for shard in side.grid for key in shard)


def units_table(units: Sequence[Unit], todo: set[str] | None, sizes: Sizes) -> Table:
    """How many units of each kind there are, how many are left (keys in `todo`), and their cost."""
    known = {unit.key: unit for unit in units}
    columns = ["units", "all", "evaluations", "bytes, about"]
    if todo is not None:
        columns += ["left", "evaluations", "bytes, about"]
    table = _table(*columns)
    for kind in (*dict.fromkeys(unit.kind for unit in units), None):
        group = [unit for unit in units if kind in (None, unit.kind)]
        if not group:
            continue
        cells = _cost(group, known, sizes)
        if todo is not None:
            cells += _cost([unit for unit in group if unit.key in todo], known, sizes)
        if kind is None:
            table.add_section()
        table.add_row(kind or "total", *cells)
    return table


def _cost(units: list[Unit], known: Mapping[str, Unit], sizes: Sizes) -> list[str]:
    evaluations = sum(unit.evaluations for unit in units)
    return [f"{len(units):,}", f"{evaluations:,}", decimal(sizes.total(units, known))]


def evaluations_per_second(prepared: Prepared, plan: Plan) -> float:
    """Speed with the manifest's model, batch size and threads, in this process on its device."""
    device = prepared.model.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    collection = prepared.manifest.collection
    prompts = next(iter(plan.of(WindowUnit).values())).prompts[: collection.batch_size]
    threads = torch.get_num_threads()
    torch.set_num_threads(prepared.manifest.compute.threads_per_actor)
    try:
        model = family_named(prepared.model.pipeline).load(
            prepared.model.folder(),
            dtype=getattr(torch, prepared.model.dtype),
            device=device,
            scheduler=prepared.model.scheduler,
            resolution=prepared.model.resolution,
            offload=prepared.model.offload,
        )
        seconds = []
        for _ in range(1 + TIMED_CALLS):
            batch = model.begin(prompts, steps=collection.steps, guidance=collection.guidance)
            started = time.perf_counter()
            model.advance(batch)
            # Copy to the host, because a device may still be working after the call returns.
            batch.trajectory.latents.cpu()
            seconds.append(time.perf_counter() - started)
    finally:
        torch.set_num_threads(threads)
    # The first call warms up.
    return len(prompts) * batch.num_branches / median(seconds[1:])


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False)
    for index, name in enumerate(columns):
        table.add_column(name, justify="right" if index else "left", no_wrap=True)
    return table
