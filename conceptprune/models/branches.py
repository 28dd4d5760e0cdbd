"""Compute once what is the same in all guidance branches of a denoiser call.

The branches of a prompt start from the same latents and differ only in what the denoiser is told of
the text. So all that a UNet computes before its first cross-attention is the same in each of them.

Shapes: H guidance branches, B prompts, N = H * B samples of one denoiser call, branch by branch.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


def before_the_text(unet: nn.Module) -> list[nn.Module]:
    """The modules of a diffusers UNet whose inputs do not depend on the text, first to last.

    For UNets whose time embedding does not depend on it, either. The search ends at the first block
    of a kind that is not known here. Modules of little work, such as norms, are left out.
    """
    found = [unet.get_submodule("conv_in")]
    for block in unet.get_submodule("down_blocks").children():
        kind = type(block).__name__
        if kind == "DownBlock2D":
            found += _same_bits(block)
            continue
        if kind == "CrossAttnDownBlock2D":
            found += _same_bits(block.get_submodule("resnets.0"))
            first = block.get_submodule("attentions.0.transformer_blocks.0")
            if not first.only_cross_attention:
                found.append(first.get_submodule("attn1"))
        break
    return found


def _same_bits(module: nn.Module) -> list[nn.Module]:
    """`module`, or its larger convolutions if it has 1 x 1 ones.

    On a CPU those take another kernel for 16 samples or more, which changes last bits.
    """
    convolutions = [part for part in module.modules() if isinstance(part, nn.Conv2d)]
    larger: list[nn.Module] = [part for part in convolutions if part.kernel_size != (1, 1)]
    return [module] if len(larger) == len(convolutions) else larger


def unwatched(modules: Iterable[nn.Module]) -> list[nn.Module]:
    """Those of `modules` without a hook in them: whoever watches expects all samples."""
    return [
        module
        for module in modules
        if not any(part._forward_hooks or part._forward_pre_hooks for part in module.modules())
    ]


@contextmanager
def computed_once(modules: Sequence[nn.Module], num_branches: int) -> Iterator[None]:
    """Inside the context, `modules` compute the first branch only, [B, ...] of their inputs
    [N, ...], and their outputs are repeated for the others: [N, ...] again."""

    def one_branch(value: Any) -> Any:
        return value[: len(value) // num_branches] if isinstance(value, Tensor) else value

    def every_branch(value: Any) -> Any:
        if isinstance(value, Tensor):
            return torch.cat([value] * num_branches)
        return tuple(map(every_branch, value))

    def before(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        named = {name: one_branch(value) for name, value in kwargs.items()}
        return tuple(map(one_branch, args)), named

    def after(_module: nn.Module, _args: tuple[Any, ...], output: Any) -> Any:
        return every_branch(output)

    handles = []
    try:
        for module in modules:
            handles.append(module.register_forward_pre_hook(before, with_kwargs=True))
            handles.append(module.register_forward_hook(after))
        yield
    finally:
        for handle in handles:
            handle.remove()
