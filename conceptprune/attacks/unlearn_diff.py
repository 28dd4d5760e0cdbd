"""UnlearnDiffAtk (Zhang et al., ECCV 2024): search a few tokens before the prompt, by the diffusion
loss.

White box: the erased denoiser's own training loss on an image of the concept shows which tokens
help, so that no classifier is needed. A row of the simplex over the vocabulary stands for each
token; a step samples one token from each, takes the loss's gradient as if it were the row's
(straight through, clamped to -1..1), steps with Adam and projects back to the simplex, as in the
reference, OPTML-Group/Diffusion-MU-Attack.

K tokens, V tokens that may be used, T the encoder's length, D its width.
"""

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

from conceptprune.attacks.attempts import Attempt, Scene, attempt_seed, base_images, first_success
from conceptprune.attacks.loss import diffusion_loss, frozen, latents_of
from conceptprune.attacks.text import TokenSpace
from conceptprune.attacks.token_spaces import token_space
from conceptprune.evaluation.attack_settings import UnlearnDiff
from conceptprune.models.prompt import Prompt


def unlearn_diff(scene: Scene, settings: UnlearnDiff) -> list[Attempt]:
    """Attack each asked prompt separately, up to the first image that shows the concept.

    The prompt without an attack goes first, as in the reference, and counts if it succeeds.

    Raises:
        UserError: the family is not supported, or the model predicts neither noise nor velocity.
    """
    space = token_space(scene.model)
    latents = latents_of(scene.model, base_images(scene))
    with frozen(scene.model):
        return [
            first_success(
                scene,
                index,
                _candidates(space, settings, asked, latents[index : index + 1]),
                steps=settings.iterations,
            )
            for index, asked in enumerate(scene.asked)
        ]


def _candidates(
    space: TokenSpace, settings: UnlearnDiff, asked: Prompt, latents: Tensor
) -> Iterator[str]:
    """The prompt after the most likely tokens, after the steps of each timestep."""
    model = space.model
    rng = torch.Generator().manual_seed(attempt_seed(settings.seed, asked))
    usable = space.usable()
    own = space.ids(asked.text)[: space.room - settings.tokens]
    rows = torch.full((settings.tokens, len(usable)), 1 / len(usable))
    optimizer = torch.optim.Adam(
        [rows], lr=settings.learning_rate, weight_decay=settings.weight_decay
    )
    every = model.scheduler.config.num_train_timesteps // settings.timesteps
    for timestep in range(every // 2, every * settings.timesteps, every):
        for _ in range(settings.iterations):
            chosen = F.one_hot(torch.multinomial(rows, 1, generator=rng)[:, 0], len(usable))
            noise = torch.randn(latents.shape, generator=rng).to(latents)
            _, gradient = loss_and_gradient(
                space, chosen.float(), own, latents, noise, timestep, usable
            )
            rows.grad = gradient.clamp(-1, 1).cpu()
            optimizer.step()
            rows.copy_(to_simplex(rows))
        likeliest = usable[rows.argmax(1)].tolist()
        yield space.text([*likeliest, *own])


def loss_and_gradient(
    space: TokenSpace,
    chosen: Tensor,
    own: list[int],
    latents: Tensor,
    noise: Tensor,
    timestep: int,
    usable: Tensor,
) -> tuple[Tensor, Tensor]:
    """The diffusion loss of the prompt `own` with tokens `chosen` before it, and its gradient.

    `chosen` [K, V] mixes the embeddings of the `usable` tokens, one row per token; `own` are the
    prompt's ids; `latents` and `noise` are [1, C, h, w].
    """
    chosen = chosen.to(latents.device).requires_grad_()
    table = space.table
    ids = space.padded([*usable[chosen.argmax(1).cpu()].tolist(), *own])
    rest = table[ids]
    mixed = chosen.to(table.dtype) @ table[usable.to(table.device)]
    first, behind = space.first, space.first + len(chosen)
    embeddings = torch.cat([rest[:first], mixed, rest[behind:]])
    conditions = space.encode_embeddings(embeddings[None], ids[None])
    loss = diffusion_loss(space.model, latents, noise, timestep, conditions)
    (gradient,) = torch.autograd.grad(loss, [chosen])
    return loss.detach(), gradient


def to_simplex(rows: Tensor) -> Tensor:
    """The nearest rows [K, V] in the probability simplex (Duchi et al. 2008, fig. 1)."""
    ordered = rows.sort(1, descending=True).values
    excess = ordered.cumsum(1) - 1
    counts = torch.arange(1, rows.shape[1] + 1)
    last = (ordered * counts > excess).sum(1, keepdim=True)
    level = excess.gather(1, last - 1) / last
    return (rows - level).clamp(min=0)
