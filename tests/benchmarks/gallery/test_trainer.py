"""A denoiser's training: its loss is the plain one, and a run that stops goes on unchanged."""

import ast
import inspect
from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler, DiffusionPipeline
from safetensors.torch import load_file
from torch import nn

from benchmarks.gallery import autoencoder, denoisers, trainer
from benchmarks.gallery.captions import words
from benchmarks.gallery.denoisers import KINDS, NOISE
from benchmarks.gallery.latents import Latents
from benchmarks.gallery.names import NUM_LOOKS, THINGS
from benchmarks.gallery.renderings import Renderings
from benchmarks.gallery.trainer import Recipe, Trainer, denoising_loss, spread_times


@pytest.fixture(scope="module")
def latents():
    """One random latent for each thing in each look."""
    thing, look = (
        m.ravel() for m in np.meshgrid(range(len(THINGS)), range(NUM_LOOKS), indexing="ij")
    )
    random = torch.Generator().manual_seed(1)
    means = torch.randn(len(thing), 8, 16, 16, generator=random)
    images = np.zeros((len(thing), 1, 1, 3), np.uint8)
    return Latents(means, means.abs() * 0.1, Renderings(images, thing, look))


class Guess(nn.Module):
    """Predicts a learned multiple of what it is given, and keeps what that was."""

    def __init__(self):
        super().__init__()
        self.factor = nn.Parameter(torch.tensor(0.3))

    def forward(self, noisy, times, ids):
        self.seen = noisy, times, ids
        return self.factor * noisy


def test_the_loss_is_the_mean_squared_error_of_the_velocity_and_nothing_else():
    torch.manual_seed(0)
    noise, guess, clean = DDPMScheduler(**NOISE), Guess(), torch.randn(6, 8, 16, 16)
    ids = torch.arange(12).view(6, 2)
    loss = denoising_loss(guess, noise, clean, ids)
    noisy, times, given = guess.seen
    assert torch.equal(given, ids)
    # By hand: noisy = a x + s e and v = a e - s x, so v = (a noisy - x) / s.
    kept = noise.alphas_cumprod[times].double().view(-1, 1, 1, 1)
    signal, spread = kept.sqrt(), (1 - kept).sqrt()
    velocity = (signal * noisy - clean) / spread
    by_hand = ((0.3 * noisy - velocity) ** 2).mean()
    assert torch.allclose(loss.double(), by_hand, rtol=1e-4)
    loss.backward()
    slope = (2 * (0.3 * noisy - velocity) * noisy).mean()
    assert torch.allclose(guess.factor.grad.double(), slope, rtol=1e-4)


def test_what_is_descended_is_that_loss_alone():
    tree = ast.parse(inspect.getsource(trainer))
    called = [
        node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
    ]
    assert called.count("backward") == 1
    assert called.count("mse_loss") == 1
    assert sorted(name for name in called if "loss" in name) == ["denoising_loss", "mse_loss"]
    (backward,) = (
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr == "backward"
    )
    assert ast.unparse(backward) == "loss.backward()"
    assigned = [
        ast.unparse(node.value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "loss"
    ]
    assert assigned == ["denoising_loss(self.painter, self.noise, clean, ids)"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_step_is_adam_on_the_gradient_of_that_loss(kind, latents):
    run = Trainer(kind, Recipe(num_steps=4, batch=2, warm_up=1, cool_down=1))
    twin = KINDS[kind]()
    twin.load_state_dict(run.painter.state_dict())
    run.advance(latents)
    torch.manual_seed(1)
    clean, ids = Trainer.sample(run_at_first_step(run), latents)
    denoising_loss(twin, run.noise, clean, ids).backward()
    nn.utils.clip_grad_norm_(twin.denoiser.parameters(), 1.0)
    for ours, theirs in zip(run.parameters, twin.denoiser.parameters(), strict=True):
        assert (ours.grad is None) == (theirs.grad is None)
        if ours.grad is not None:
            assert torch.allclose(ours.grad, theirs.grad, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("kind", KINDS)
def test_the_text_encoder_is_frozen(kind, latents):
    run = Trainer(kind, Recipe(num_steps=4, batch=2, warm_up=1, cool_down=1))
    before = {n: p.clone() for n, p in run.painter.text_encoder.named_parameters()}
    run.advance(latents)
    assert not any(p.requires_grad for p in run.painter.text_encoder.parameters())
    for name, parameter in run.painter.text_encoder.named_parameters():
        assert torch.equal(parameter, before[name]), name


def run_at_first_step(run):
    """The run, for a look back at what its first step drew."""
    run.step = 0
    return run


@pytest.mark.parametrize("kind", KINDS)
def test_no_weight_starts_elsewhere_than_the_libraries_put_it(kind):
    torch.manual_seed(5)
    ours = KINDS[kind]()
    torch.manual_seed(5)
    if kind == "unet":
        words = denoisers.clip_tokenizer()
        denoisers.clip_text_encoder(len(words), words.bos_token_id, words.eos_token_id)
        stock = type(ours.denoiser).from_config(ours.denoiser.config)
    else:
        denoisers.t5_text_encoder(len(denoisers.t5_tokenizer()))
        stock = type(ours.denoiser).from_config(ours.denoiser.config)
    for (name, a), (_, b) in zip(
        ours.denoiser.named_parameters(), stock.named_parameters(), strict=True
    ):
        assert torch.equal(a, b), name


def test_nothing_in_the_recipe_speaks_of_neurons():
    names = {field.name for field in fields(Recipe)}
    assert names == {
        "num_steps", "batch", "rate", "warm_up", "cool_down", "average", "seed", "photos",
        "no_caption",
    }  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_no_module_drops_activations_out(kind):
    dropouts = [m.p for m in KINDS[kind]().modules() if isinstance(m, nn.Dropout)]
    assert set(dropouts) <= {0.0}


@pytest.mark.parametrize("kind", KINDS)
def test_a_step_and_one_after_a_stop_are_two_steps_bit_for_bit(kind, latents, tmp_path):
    recipe = Recipe(num_steps=8, batch=2, warm_up=2, cool_down=3)
    straight = Trainer(kind, recipe)
    straight.advance(latents)
    straight.save(tmp_path / "stopped.safetensors")
    straight.advance(latents)
    straight.save(tmp_path / "a.safetensors")
    resumed = Trainer(kind, recipe)
    resumed.resume(tmp_path / "stopped.safetensors")
    resumed.advance(latents)
    resumed.save(tmp_path / "b.safetensors")
    one, other = (load_file(tmp_path / f"{n}.safetensors") for n in "ab")
    assert one.keys() == other.keys()
    assert resumed.step == 2
    for name, tensor in one.items():
        assert torch.equal(tensor, other[name]), name


@pytest.mark.parametrize("kind", KINDS)
def test_an_exported_model_is_enough_to_go_on_from(kind, latents, tmp_path):
    recipe = Recipe(num_steps=8, batch=1, warm_up=2, cool_down=3)
    lost = Trainer(kind, recipe)
    lost.advance(latents)
    lost.export(autoencoder.build(), tmp_path / kind)
    exported = DiffusionPipeline.from_pretrained(tmp_path / kind).tokenizer
    for word in words():
        assert exported(word).input_ids == lost.painter.tokenizer(word).input_ids
    found = Trainer(kind, replace(recipe, seed=1), lost.painter.text_encoder)
    found.recover(tmp_path / kind)
    assert found.step == 1
    for ours, theirs in zip(found.parameters, lost.average, strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-3, atol=1e-3)  # as float16 has them
    found.advance(latents)
    assert found.step == 2


def test_after_a_change_of_text_encoders_it_still_hears_the_same(latents, tmp_path):
    lost = Trainer("unet", Recipe(num_steps=8, batch=1))
    lost.advance(latents)
    lost.export(autoencoder.build(), tmp_path / "unet")
    found = Trainer("unet", Recipe(num_steps=8, batch=1, seed=1))
    found.ids = found.ids[:4, 60:80]  # enough captions, and fast
    own = found.painter.text_encoder.state_dict()
    found.recover(tmp_path / "unet")
    assert all(torch.equal(t, own[n]) for n, t in found.painter.text_encoder.state_dict().items())
    ids = found.ids[3, 17]
    (layer,) = (
        n
        for n, _ in lost.painter.named_modules()
        if n.endswith("mid_block.attentions.0.transformer_blocks.0.attn2.to_v")
    )
    with torch.no_grad():
        before, after = (
            run.painter.get_submodule(layer)(run.painter.states(ids)) for run in (lost, found)
        )
    assert (before - after).square().mean() < 0.05 * before.var()


def test_a_drawn_latent_is_one_of_its_thing_and_look(latents):
    thing, look = torch.tensor([3, 3, 15]), torch.tensor([0, 128, 7])
    drawn = latents.draw(thing, look)
    asked = latents.means[thing * NUM_LOOKS + look]
    assert (drawn - asked).square().mean() < 0.05
    assert asked.var() > 0.5


def test_captions_and_latents_of_a_batch_are_of_the_same_image(latents):
    run = Trainer("unet", Recipe(num_steps=4, batch=64, no_caption=0.0))
    torch.manual_seed(3)
    clean, ids = run.sample(latents)
    known = run.ids.flatten(0, 1)
    for latent, tokens in zip(clean, ids, strict=True):
        nearest = (latents.means - latent).square().mean((1, 2, 3)).argmin()
        assert (known[nearest] == tokens).all(-1).any()


def test_times_cover_the_noise_twice_as_often_at_twice_the_time():
    torch.manual_seed(0)
    times = torch.cat([spread_times(16, 1000) for _ in range(2000)])
    assert times.min() >= 0
    assert times.max() == 999
    early, late = ((times // 100 == n).float().mean().item() for n in (2, 5))
    assert late / early == pytest.approx(5.5 / 2.5, rel=0.05)


def test_photos_come_first_and_then_less_often(latents):
    run = Trainer("unet", Recipe(num_steps=9, batch=400, photos=((0, 0.8), (10, 0.1))))
    photo_ids = {tuple(t) for t in run.ids[:, 0].flatten(0, 1).tolist()}

    def share():
        torch.manual_seed(0)
        _, ids = run.sample(latents)
        return np.mean([tuple(t) in photo_ids for t in ids.tolist()])

    first = share()
    run.step = 10
    assert first > 0.6
    assert share() < 0.2
