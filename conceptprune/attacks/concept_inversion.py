"""Concept Inversion (Pham et al., ICLR 2024): textual inversion against the erased denoiser.

White box: a few images of the concept teach the frozen, erased model a new word, whose embedding
then replaces the concept's name in prompts (Gal et al. 2023, eq. 2, with the erased denoiser). The
concept counts as erased from the weights only if no such word brings it back.

M vectors, T the encoder's length, D its width.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from conceptprune.attacks.attempts import Attempt, Scene, attempt_seed, base_images
from conceptprune.attacks.loss import diffusion_loss, frozen, latents_of
from conceptprune.attacks.text import TokenSpace
from conceptprune.attacks.token_spaces import token_space
from conceptprune.evaluation.attack_settings import ConceptInversion
from conceptprune.models.base import Conditions
from conceptprune.models.prompt import Prompt

WORD = "<*>"
"""Placeholder for the learned word in texts; it never reaches the tokenizer."""


@dataclass(frozen=True, slots=True)
class Caption:
    """A prompt with the learned word: its ids [T] and the position of the word's first token."""

    text: str
    ids: Tensor
    at: int


def concept_inversion(scene: Scene, settings: ConceptInversion) -> list[Attempt]:
    """Learn one word from all the scene's images, then generate one image per prompt with it.

    Raises:
        UserError: the family is not supported, or the model predicts neither noise nor velocity.
    """
    space = token_space(scene.model)
    captions = [
        caption(space, settings, captioned(scene.concept, plain, asked))
        for plain, asked in zip(scene.plain, scene.asked, strict=True)
    ]
    with frozen(scene.model):
        latents = latents_of(scene.model, base_images(scene))
        word = learn(space, settings, captions, latents)
        with torch.no_grad():
            encoded = [conditions_of(space, [each], word) for each in captions]
        # On the host, where those of texts are.
        encoded = [{name: part.cpu() for name, part in each.items()} for each in encoded]
        seeds = [asked.seed for asked in scene.asked]
        seen = scene.generate_encoded(encoded, seeds, range(len(seeds)))
    return [
        Attempt(
            asked=asked.text,
            prompt=each.text,
            seed=asked.seed,
            success=bool(success),
            images=1,
            steps=settings.steps,
            embedding=tuple(word.flatten().tolist()),
        )
        for asked, each, success in zip(scene.asked, captions, seen, strict=True)
    ]


def captioned(concept: str, plain: str, asked: Prompt) -> str:
    """The asked text with the word as the concept's name, or the plain text and the word."""
    before, name, after = asked.text.partition(concept)
    return f"{before}{WORD}{after}" if name else f"{plain}, {WORD}"


def caption(space: TokenSpace, settings: ConceptInversion, text: str) -> Caption:
    """Tokens of a text with `WORD` in it; truncated at the end if too long."""
    before, _, after = text.partition(WORD)
    head = space.ids(before.strip())[: space.room - settings.vectors]
    # Any token will do, since its embedding is replaced.
    word = [int(space.usable()[0])] * settings.vectors
    ids = [*head, *word, *space.ids_after_word(after)][: space.room]
    return Caption(text, space.padded(ids), space.first + len(head))


def learn(
    space: TokenSpace, settings: ConceptInversion, captions: Sequence[Caption], latents: Tensor
) -> Tensor:
    """Learn the word's embedding [M, D], by AdamW on the diffusion loss of latents [n, C, h, w]."""
    model = space.model
    asked = Prompt(text="".join(each.text for each in captions), seed=0)
    rng = torch.Generator().manual_seed(attempt_seed(settings.seed, asked))
    start = space.table[space.ids(settings.start)].float().mean(0)
    word = start.repeat(settings.vectors, 1).requires_grad_()
    optimizer = torch.optim.AdamW([word], lr=settings.learning_rate, weight_decay=1e-2)
    calls = model.scheduler.config.num_train_timesteps
    for _ in range(settings.steps):
        picked = torch.randint(len(captions), (settings.batch_size,), generator=rng)
        # One timestep per step for the whole batch: the denoiser takes a scalar.
        timestep = int(torch.randint(calls, (1,), generator=rng))
        noise = torch.randn(latents[picked].shape, generator=rng).to(latents)
        conditions = conditions_of(space, [captions[index] for index in picked.tolist()], word)
        loss = diffusion_loss(model, latents[picked], noise, timestep, conditions)
        (word.grad,) = torch.autograd.grad(loss, [word])
        optimizer.step()
    return word.detach()


def conditions_of(space: TokenSpace, captions: Sequence[Caption], word: Tensor) -> Conditions:
    """The conditions [n, ...] of captions with the word's embedding [M, D] inserted."""
    table = space.table
    embeddings = []
    for each in captions:
        rest = table[each.ids]
        end = each.at + len(word)
        embeddings.append(torch.cat([rest[: each.at], word.to(table.dtype), rest[end:]]))
    ids = torch.stack([each.ids for each in captions])
    return space.encode_embeddings(torch.stack(embeddings), ids)
