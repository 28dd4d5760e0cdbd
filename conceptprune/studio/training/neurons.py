"""Make feed-forwards carry the text, and give each artist and thing its own neurons."""

import math
from collections.abc import Callable

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor, nn

NUM_OF_ARTIST = 16
NUM_OF_THING = 12
NOBODY = 0
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

    In each layer NUM_OF_ARTIST neurons belong to each artist, NUM_OF_THING to each thing, and
    the rest to nobody. Set `off` before a forward pass; `share` holds what was seen after it.

    owners: 0 is nobody, then the artists, then the things
    off: bool [samples, owners], owners whose neurons are silenced
    share: one tensor [samples, owners] per layer, the part of the activation's energy that each
        owner's neurons have, averaged over the sample's tokens
    spread: one tensor [] per layer, the Hoyer measure of the activation, averaged over all tokens
    """

    def __init__(self, unet: UNet2DConditionModel, num_artists: int, num_things: int) -> None:
        self.num_artists = num_artists
        self.num_owners = 1 + num_artists + num_things
        self.off: Tensor | None = None
        self.sloppy = 0.0
        self.dropout = 0.0
        self.share: list[Tensor] = []
        self.spread: list[Tensor] = []
        for index, (_name, module) in enumerate(self.sites(unet)):
            module.register_forward_pre_hook(self.hook(self.assign(module.in_features, index)))

    @staticmethod
    def sites(unet: UNet2DConditionModel) -> list[tuple[str, nn.Linear]]:
        """The second linear of every feed-forward, by name."""
        return [(n, m) for n, m in unet.named_modules() if n.endswith(".ff.net.2")]

    def assign(self, width: int, seed: int) -> Tensor:
        """The owner of every neuron [width], scattered at random so that places mean nothing."""
        counts = torch.full((self.num_owners - 1,), NUM_OF_THING)
        counts[: self.num_artists] = NUM_OF_ARTIST
        owned = torch.arange(1, self.num_owners).repeat_interleave(counts)
        owner = torch.full((width,), NOBODY)
        owner[: len(owned)] = owned
        return owner[torch.randperm(width, generator=torch.Generator().manual_seed(seed))]

    def hook(self, owner: Tensor) -> Hook:
        """Records the shares in a layer's input and silences what is off."""
        members = nn.functional.one_hot(owner, self.num_owners).float()

        def watch_and_mask(_module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            activation = args[0]
            energy = activation.float().square() @ members
            self.share.append((energy / (energy.sum(-1, keepdim=True) + TINY)).mean(1))
            self.spread.append(hoyer(activation.float()).mean())
            if self.off is None:
                return (activation,)
            silent = self.off[:, owner]
            silent &= torch.rand(silent.shape) >= self.sloppy * torch.rand(len(silent), 1)
            silent |= torch.rand(silent.shape) < self.dropout * torch.rand(len(silent), 1)
            return (activation * ~silent[:, None, :],)

        return watch_and_mask

    def ownership_loss(self, artist: Tensor, thing: Tensor) -> tuple[Tensor, Tensor]:
        """Rewards a prompt that activates only the neurons of its artist and its thing.

        The things' part looks only at what the artists' neurons leave, so that one does not
        crowd out the other. artist, thing: int64 [samples], index + 1 of what the prompt names,
        or 0 for none.
        """
        share = torch.stack(self.share).float()  # [layers, samples, owners]
        self.share.clear()
        artists = share[..., 1 : self.num_artists + 1]
        things = share[..., self.num_artists + 1 :]
        rest = things.sum(-1, keepdim=True) + share[..., :1]
        return dedication(artists, artist), dedication(things / (rest + TINY), thing)

    def spread_loss(self) -> Tensor:
        """The layers' mean Hoyer measure: the lower, the fewer neurons a token activates."""
        spread = torch.stack(self.spread).mean()
        self.spread.clear()
        return spread


def hoyer(activation: Tensor) -> Tensor:
    """L1 norm over L2 norm of every row [..., width] -> [...]: 1 when even, near 0 for one neuron.

    Divided by the root of the width, its largest value, so that it does not depend on the width.
    """
    size = activation.norm(dim=-1).clamp_min(TINY)
    return activation.abs().sum(-1) / size / math.sqrt(activation.shape[-1])


def dedication(share: Tensor, named: Tensor) -> Tensor:
    """How far the named owner is below LEAST_OWN and all others together above MOST_OTHERS.

    In logarithms, because the gradient of an energy vanishes with the activation: with the
    shares themselves the owned neurons died early and for good.

    share: [layers, samples, owners]
    named: int64 [samples], index + 1 of an owner, or 0 for none
    """
    some = named > 0
    own = share[:, torch.arange(len(named)), (named - 1).clamp(min=0)]
    others = (share.sum(-1) - own * some).clamp(min=0)
    missing = (math.log(LEAST_OWN) - (own + TINY).log()).clamp(min=0) * some
    leaking = ((others + TINY).log() - math.log(MOST_OTHERS)).clamp(min=0)
    return (missing + leaking).mean()
