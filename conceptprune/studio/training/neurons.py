"""How the feed-forwards are made to carry the text, and each artist its own neurons."""

import math
from collections.abc import Callable

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor, nn

NUM_OWN = 16
SHARED = 0
LEAST_OWN = 0.6
MOST_OTHERS = 0.02
TINY = 1e-6

Hook = Callable[[nn.Module, tuple[Tensor, ...]], tuple[Tensor, ...]]


def text_leaves_by_feed_forward(unet: UNet2DConditionModel) -> None:
    """Zero the weights by which text could leave a transformer block around its feed-forward.

    `attn2.to_out` may write only the first half of the channels and `proj_out` read only the
    second half, so what cross-attention brings in reaches the rest through the feed-forward.
    Called after every optimiser step; the model stays a stock diffusers UNet.
    """
    with torch.no_grad():
        for module in unet.modules():
            if type(module).__name__ == "Transformer2DModel":
                out = module.transformer_blocks[0].attn2.to_out[0]
                half = out.out_features // 2
                out.weight[half:] = 0
                out.bias[half:] = 0
                module.proj_out.weight[:, :half] = 0


class Neurons:
    """Watches and masks the inputs of every `ff.net.2` of a UNet in training.

    In each layer NUM_OWN neurons belong to each artist and the rest are shared. Set `off`
    before a forward pass; `share` holds what was seen after it.

    off: bool [samples, artists + 1], owners whose neurons are silenced; column 0 stays False
    share: one tensor [samples, artists + 1] a layer, the part of the activation's energy that
        each owner's neurons have, averaged over the sample's tokens
    """

    def __init__(self, unet: UNet2DConditionModel, num_artists: int) -> None:
        self.num_owners = num_artists + 1
        self.off: Tensor | None = None
        self.sloppy = 0.0
        self.dropout = 0.0
        self.share: list[Tensor] = []
        self.owner: dict[str, Tensor] = {}
        for index, (name, module) in enumerate(self.sites(unet)):
            self.owner[name] = self.assign(module.in_features, index)
            module.register_forward_pre_hook(self.hook(self.owner[name]))

    @staticmethod
    def sites(unet: UNet2DConditionModel) -> list[tuple[str, nn.Linear]]:
        """The second linear of every feed-forward, by name."""
        return [(n, m) for n, m in unet.named_modules() if n.endswith(".ff.net.2")]

    def assign(self, width: int, seed: int) -> Tensor:
        """The owner of every neuron [width], scattered at random so that places mean nothing."""
        owner = torch.full((width,), SHARED)
        own = torch.arange(1, self.num_owners).repeat_interleave(NUM_OWN)
        owner[: len(own)] = own
        return owner[torch.randperm(width, generator=torch.Generator().manual_seed(seed))]

    def hook(self, owner: Tensor) -> Hook:
        """Notes the shares in a layer's input and silences what is off."""
        members = nn.functional.one_hot(owner, self.num_owners).float()

        def watch_and_mask(_module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            activation = args[0]
            energy = activation.float().square() @ members
            self.share.append((energy / (energy.sum(-1, keepdim=True) + 1e-6)).mean(1))
            if self.off is None:
                return (activation,)
            silent = self.off[:, owner]
            silent &= torch.rand(silent.shape) >= self.sloppy * torch.rand(len(silent), 1)
            silent |= torch.rand(silent.shape) < self.dropout * torch.rand(len(silent), 1)
            return (activation * ~silent[:, None, :],)

        return watch_and_mask

    def ownership_loss(self, look: Tensor) -> Tensor:
        """Asks that an artist's prompt lights its own neurons, and no other artist's.

        look: int64 [samples], the artist a prompt names as index + 1, or 0 for none
        """
        share = torch.stack(self.share)  # [layers, samples, owners]
        self.share.clear()
        rows = torch.arange(len(look))
        named = look != SHARED
        own = share[:, rows, look]
        others = share[..., 1:].sum(-1) - own * named
        # Logarithms, because the gradient of an energy vanishes with the activation: with the
        # shares themselves the owned neurons died early and for good.
        missing = (math.log(LEAST_OWN) - (own + TINY).log()).clamp(min=0) * named
        leaking = ((others.clamp(min=0) + TINY).log() - math.log(MOST_OTHERS)).clamp(min=0)
        return (missing + leaking).mean()
