"""The text encoders' training: CLIP's loss, on a batch's images and captions."""

import pytest
import torch
from torch.nn import functional as F

from benchmarks.gallery.denoisers import KINDS
from benchmarks.gallery.text_encoders import Contrast, contrastive_loss


def test_the_loss_asks_each_image_for_its_caption_and_each_caption_for_its_image():
    torch.manual_seed(0)
    logits = torch.randn(5, 5)
    by_hand = 0.0
    for table in (logits, logits.T):
        for own in range(5):
            by_hand += -F.log_softmax(table[own], 0)[own].item() / 10
    assert contrastive_loss(logits).item() == pytest.approx(by_hand, rel=1e-5)
    assert contrastive_loss(50 * torch.eye(5)) < 1e-6


@pytest.mark.parametrize("kind", KINDS)
def test_all_of_the_text_encoder_learns_and_nothing_of_the_denoiser(kind):
    torch.manual_seed(0)
    painter = KINDS[kind]()
    model = Contrast(painter)
    ids = torch.tensor([painter.token_ids(text) for text in ("a cat", "a boat by munu gruvick")])
    contrastive_loss(model(torch.randn(2, 8, 16, 16), ids)).backward()
    assert all(p.grad is None for p in painter.denoiser.parameters())
    embedded = painter.text_encoder.get_input_embeddings().weight.grad
    assert embedded[ids.unique()].abs().sum() > 0


def test_padding_does_not_reach_a_transformers_pooled_text():
    painter = KINDS["transformer"]().eval()
    ids = torch.tensor([painter.token_ids("a cat")])
    last = ids.ne(painter.tokenizer.pad_token_id).sum()
    with torch.no_grad():
        whole, cut = painter.pooled(ids), painter.pooled(ids[:, :last])
    assert torch.allclose(whole, cut, atol=1e-5)
