"""`cluster/CAPACITY.md` is what its generator writes, of networks that are the published ones."""

import re
import tracemalloc

import pytest

from benchmarks.capacity import ARTISTS, CONFIGS, PAGE, network, page, plan

PARAMETERS = {"SD 1.5": 859_520_964, "SDXL": 2_567_463_684}


@pytest.mark.parametrize("name", CONFIGS)
def test_the_networks_are_the_published_ones(name: str) -> None:
    assert network(name).parameters == PARAMETERS[name]


def test_the_page_is_what_its_generator_writes() -> None:
    assert PAGE.read_text(encoding="utf-8") == page()


def test_the_plan_takes_the_memory_the_page_says() -> None:
    plan.cache_clear()
    tracemalloc.start()
    plan()
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert held / ARTISTS == pytest.approx(10_000, rel=0.3)


def test_the_drivers_time_in_the_text_is_that_of_the_table() -> None:
    text = PAGE.read_text(encoding="utf-8")
    (row,) = re.findall(
        r"^\| driver's processor time, ms a unit \|(.+)\|$", text, flags=re.MULTILINE
    )
    times = [float(cell) for cell in row.split("|")]
    assert f"({min(times)} to {max(times)} measured, see below)" in text
