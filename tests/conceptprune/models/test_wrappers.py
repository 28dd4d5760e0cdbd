"""What a component's linears are called, whatever was put around them."""

import pytest
import torch
from torch import nn

from conceptprune.models.sites import Site, site_linears
from conceptprune.models.wrappers import modules_of, unwrapped

EVERYTHING = Site(name="all", pattern=r"\d.*")


def two() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))


def test_a_compiled_block_and_a_compiled_component_have_the_names_of_before() -> None:
    model = two()
    linears = list(model)
    model[1] = torch.compile(model[1], backend="eager")
    whole = torch.compile(model, backend="eager")
    assert unwrapped(whole) is model
    assert modules_of(whole) == {"": model, "0": linears[0], "1": linears[1]}


@pytest.mark.parametrize("whole", [False, True])
def test_what_an_adapter_adds_is_no_module_of_the_component(whole: bool) -> None:
    peft = pytest.importorskip("peft")
    model = two()
    linears = list(model)
    config = peft.LoraConfig(r=2, target_modules=["0", "1"])
    wrap = peft.get_peft_model if whole else lambda m, c: peft.inject_adapter_in_model(c, m)
    found = site_linears(wrap(model, config), EVERYTHING)
    assert found == {"0": linears[0], "1": linears[1]}
