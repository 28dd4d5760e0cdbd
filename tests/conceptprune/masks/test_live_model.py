"""Masks on live models: what others write to the weights, what wraps them, and many threads."""

import asyncio
import threading
from collections.abc import Awaitable
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import cpu_offload, disk_offload
from accelerate.hooks import remove_hook_from_module
from torch import Tensor, nn

from conceptprune import UserError
from conceptprune.masks.mask import PruningMask
from tests.conceptprune.masks.test_mask import bytes_of, make_mask, make_model
from tests.support.threads import in_threads

A = make_mask(make_model(), "a", [1, 2, 3], [0, 5, 17])
B = make_mask(make_model(), "b", [3, 4, 9], [5, 6, 7])
BOTH = A.union(B)
INPUT = torch.linspace(-1, 1, 16)[None]


def clean_model() -> nn.Module:
    """`make_model` without its NaN, so that it computes something."""
    model = make_model()
    model[0].weight.data[0, 1] = 0.5
    return model


CLEAN = make_mask(clean_model(), "a", [1, 2, 3], [0, 5, 17])


def written_with(*masks: object) -> dict[str, Tensor]:
    """The state dictionary of the model with some masks, as a delta or an export has it."""
    model = make_model()
    for mask in masks:
        mask.apply(model)  # type: ignore[attr-defined]
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def test_a_mask_is_on_where_its_entries_are_zero_whoever_did_it() -> None:
    model = make_model()
    assert not A.is_applied(model)
    model.load_state_dict(written_with(A))
    assert A.is_applied(model)
    assert not B.is_applied(model)
    A.apply(model, force=True)
    model.load_state_dict(written_with())
    assert not A.is_applied(model)


def test_a_base_that_was_loaded_over_a_mask_stays_as_it_is() -> None:
    model = make_model()
    original = bytes_of(model)
    A.apply(model)
    model.load_state_dict(written_with())
    A.remove(model)
    assert bytes_of(model) == original
    A.apply(model)
    assert A.is_applied(model)
    A.remove(model)
    assert bytes_of(model) == original


@pytest.mark.parametrize("other", [B, BOTH], ids=["overlapping", "around it"])
def test_what_another_erasure_wrote_is_not_brought_back(other: object) -> None:
    model = make_model()
    A.apply(model)
    model.load_state_dict(written_with(other))
    erased = bytes_of(model)
    with pytest.raises(UserError, match=r"cannot be taken off: something else has written to \d"):
        A.remove(model)
    assert bytes_of(model) == erased


def test_by_force_only_what_is_still_zero_comes_back() -> None:
    model = make_model()
    before = model[1].weight.detach().clone().view(-1)
    A.apply(model)
    with torch.no_grad():
        model[1].weight.view(-1)[5] = 7.0
    with pytest.raises(UserError, match="to 1 since"):
        A.remove(model)
    A.remove(model, force=True)
    after = model[1].weight.detach().view(-1)
    assert after[5] == 7.0
    assert after[[0, 17]].equal(before[[0, 17]])
    assert not A.is_held(model)


def test_a_mask_comes_off_after_the_model_changed_its_type() -> None:
    model = make_model()
    expected = make_model().half()
    A.apply(model)
    A.remove(model.half())
    assert bytes_of(model) == bytes_of(expected)


def test_masks_of_a_copied_model_come_off_the_copy() -> None:
    model = make_model()
    original = bytes_of(model)
    A.apply(model)
    copy = deepcopy(model)
    A.remove(copy)
    assert bytes_of(copy) == original
    assert A.is_applied(model)


def test_within_applied_it_is_on_and_afterwards_as_before() -> None:
    model = make_model()
    original = bytes_of(model)

    def fail_without_both() -> None:
        with A.applied(model), B.applied(model):
            assert A.is_applied(model)
            assert B.is_applied(model)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_without_both()
    assert bytes_of(model) == original
    A.apply(model)
    with A.applied(model):
        pass
    assert A.is_applied(model)


@pytest.mark.usefixtures("hasty_threads")
def test_threads_that_apply_and_remove_overlapping_masks_leave_every_byte() -> None:
    model = make_model()
    original = bytes_of(model)
    chosen = np.random.default_rng(0)
    masks = [
        make_mask(make_model(), str(index), *(chosen.choice(192, 60, False).tolist() for _ in "01"))
        for index in range(6)
    ]

    def work(index: int) -> None:
        for _ in range(15):
            masks[index].apply(model)
            assert masks[index].is_applied(model)
            masks[index].remove(model)

    in_threads(work, len(masks))
    assert bytes_of(model) == original


@pytest.mark.usefixtures("hasty_threads")
def test_a_request_within_applied_sees_its_own_masks_alone() -> None:
    model = make_model()
    original = bytes_of(model)
    masks = [A, B, make_mask(make_model(), "c", [100, 101], []), BOTH]
    expected = []
    for mask in masks:
        with mask.applied(model):
            expected.append(bytes_of(model))

    def work(index: int) -> None:
        for _ in range(10):
            with masks[index].applied(model):
                assert bytes_of(model) == expected[index]

    in_threads(work, len(masks))
    assert bytes_of(model) == original


def requests(model: nn.Module, masks: list[PruningMask], *, whole: bool) -> list[bytes | Exception]:
    """What concurrent requests of one event loop see under their own masks.

    `whole`: each runs in a thread as a whole; else it is suspended while its mask is on.
    """

    def in_thread(mask: PruningMask) -> bytes:
        with mask.applied(model):
            return bytes_of(model)

    async def in_loop(mask: PruningMask) -> bytes:
        with mask.applied(model):
            return await asyncio.to_thread(bytes_of, model)

    async def all_of_them() -> list[bytes | Exception]:
        each: list[Awaitable[bytes]] = [
            asyncio.to_thread(in_thread, mask) if whole else in_loop(mask) for mask in masks
        ]
        return await asyncio.gather(*each, return_exceptions=True)  # type: ignore[arg-type]

    return asyncio.run(all_of_them())


def test_a_task_is_refused_while_another_of_its_event_loop_generates() -> None:
    model = make_model()
    original = bytes_of(model)
    with A.applied(model):
        expected = bytes_of(model)
    first, *others = requests(model, [A, B, BOTH], whole=False)
    assert first == expected
    for other in others:
        assert isinstance(other, UserError)
        assert "asyncio.to_thread" in str(other)
        assert "\n" not in str(other)
    assert bytes_of(model) == original
    with B.applied(model):
        assert not A.is_applied(model)


def test_tasks_whose_requests_run_in_threads_wait_for_each_other() -> None:
    model = make_model()
    expected = []
    for mask in (A, B, BOTH):
        with mask.applied(model):
            expected.append(bytes_of(model))
    assert requests(model, [A, B, BOTH], whole=True) == expected


def test_a_task_sees_what_is_on_while_another_generates() -> None:
    model = make_model()

    async def generate(inside: asyncio.Event, seen: asyncio.Event) -> None:
        with A.applied(model), B.applied(model):
            inside.set()
            await seen.wait()

    async def look() -> tuple[bool, bool]:
        inside, seen = asyncio.Event(), asyncio.Event()
        task = asyncio.create_task(generate(inside, seen))
        await inside.wait()
        found = A.is_applied(model), BOTH.is_held(model)
        with pytest.raises(UserError, match="another task"):
            A.remove(model)
        seen.set()
        await task
        return found

    assert asyncio.run(look()) == (True, False)
    assert not A.is_applied(model)


def test_a_request_may_end_in_another_thread_than_it_began() -> None:
    model = make_model()
    original = bytes_of(model)
    context = A.applied(model)
    with ThreadPoolExecutor(1) as pool:
        pool.submit(context.__enter__).result(timeout=60)
    waiting = threading.Event()

    def other() -> bytes:
        waiting.set()
        with B.applied(model):
            return bytes_of(model)

    with ThreadPoolExecutor(1) as pool:
        found = pool.submit(other)
        waiting.wait()
        assert not found.done()
        context.__exit__(None, None, None)
        seen = found.result(timeout=60)
    with B.applied(model):
        assert bytes_of(model) == seen
    assert bytes_of(model) == original


def test_a_pool_thread_whose_last_request_is_not_over_is_not_in_it_with_the_next() -> None:
    """As frameworks run the two halves of a dependency, each with the request's own context."""
    model = make_model()
    context = A.applied(model)

    async def begin() -> None:
        await asyncio.to_thread(context.__enter__)

    async def next_one() -> None:
        await asyncio.to_thread(B.apply, model)

    async def both() -> None:
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(1))
        await asyncio.create_task(begin())
        with pytest.raises(UserError, match="another task of this thread"):
            await asyncio.create_task(next_one())
        await asyncio.to_thread(context.__exit__, None, None, None)

    asyncio.run(both())
    assert not A.is_applied(model)
    assert not B.is_applied(model)


def compiled(model: nn.Module) -> nn.Module:
    return torch.compile(model, backend="eager")  # type: ignore[return-value]


def compiled_in_place(model: nn.Module) -> nn.Module:
    model.compile(backend="eager")
    return model


def compiled_inside(model: nn.Module) -> nn.Module:
    model[1] = torch.compile(model[1], backend="eager")  # type: ignore[index]
    return model


def offloaded(model: nn.Module) -> nn.Module:
    return cpu_offload(model, execution_device=torch.device("cpu"))  # type: ignore[no-any-return]


WRAPPERS = {
    "compiled": compiled,
    "compiled in place": compiled_in_place,
    "compiled inside": compiled_inside,
    "offloaded": offloaded,
}


@pytest.mark.parametrize("name", WRAPPERS)
def test_a_wrapped_model_computes_without_the_mask_and_then_as_before(name: str) -> None:
    torch._dynamo.reset()
    bare = clean_model()
    plain = bare(INPUT)
    CLEAN.apply(bare)
    erased = bare(INPUT)
    assert not torch.equal(plain, erased)
    model = WRAPPERS[name](clean_model())
    assert torch.equal(model(INPUT), plain)
    CLEAN.apply(model)
    assert CLEAN.is_applied(model)
    assert torch.equal(model(INPUT), erased)
    CLEAN.remove(model)
    assert not CLEAN.is_applied(model)
    assert torch.equal(model(INPUT), plain)


@pytest.mark.parametrize("name", WRAPPERS)
def test_a_mask_that_is_on_comes_off_through_a_wrapper_that_came_later(name: str) -> None:
    torch._dynamo.reset()
    model = clean_model()
    plain = model(INPUT)
    CLEAN.apply(model)
    model = WRAPPERS[name](model)
    CLEAN.remove(model)
    assert torch.equal(model(INPUT), plain)


def test_an_offloaded_mask_is_still_on_when_the_offload_ends() -> None:
    model = offloaded(make_model())
    A.apply(model)
    remove_hook_from_module(model, recurse=True)
    assert A.is_applied(model)
    A.remove(model)
    assert bytes_of(model) == bytes_of(make_model())


def test_weights_that_are_not_in_memory_are_refused_with_the_fix(tmp_path: Path) -> None:
    on_disk = disk_offload(make_model(), tmp_path, execution_device=torch.device("cpu"))
    for model in (on_disk, make_model().to("meta")):
        for verb in (A.apply, lambda model: A.apply(model, force=True), A.is_applied):
            with pytest.raises(UserError, match=r"not in memory .* offload to the CPU"):
                verb(model)


def test_a_lora_on_the_linears_is_looked_through() -> None:
    peft = pytest.importorskip("peft")
    torch.manual_seed(0)
    config = peft.LoraConfig(r=2, target_modules=["0", "1"], init_lora_weights=False)
    for wrap in (
        lambda model: peft.inject_adapter_in_model(config, model),
        lambda model: peft.get_peft_model(model, config),
    ):
        model = clean_model()
        original = bytes_of(model)
        linears = list(model)
        first = wrap(model)
        CLEAN.apply(first)
        assert CLEAN.is_applied(first)
        assert linears[1].weight.view(-1)[[0, 5, 17]].eq(0).all()
        CLEAN.remove(first)
        assert [linears[0].weight.detach().view(torch.uint8).numpy().tobytes()] == original[:1]
        # And the other way round: the LoRA comes when the mask is on.
        model = clean_model()
        CLEAN.apply(model)
        linears = list(model)
        CLEAN.remove(wrap(model))
        assert [linears[0].weight.detach().view(torch.uint8).numpy().tobytes()] == original[:1]


def test_a_lora_that_is_fused_over_a_mask_keeps_it_until_it_is_unfused() -> None:
    peft = pytest.importorskip("peft")
    torch.manual_seed(0)
    model = clean_model()
    linears = list(model)
    CLEAN.apply(model)
    config = peft.LoraConfig(r=2, target_modules=["0", "1"], init_lora_weights=False)
    model = peft.get_peft_model(model, config)
    model.merge_adapter()
    assert not CLEAN.is_applied(model)
    fused = linears[0].weight.detach().clone()
    with pytest.raises(UserError, match=r"written to 0 since .* undo that first"):
        CLEAN.remove(model)
    assert linears[0].weight.equal(fused)
    model.unmerge_adapter()
    CLEAN.remove(model)
    now = linears[0].weight.detach()
    expected = clean_model()[0].weight
    assert now.view(-1)[[1, 2, 3]].equal(expected.view(-1)[[1, 2, 3]])
    assert torch.allclose(now, expected, atol=1e-6)
