"""The smallest true stand-ins for scorers' networks: randomly initialised, saved as folders."""

import json
from pathlib import Path

import torch
from transformers import (
    CLIPConfig,
    CLIPModel,
    CLIPTokenizer,
    ResNetConfig,
    ResNetForImageClassification,
    ViTConfig,
    ViTModel,
)

from conceptprune.studio import model_path

CLASSES = ("tench, Tinca tinca", "church, church building", "cat", "dog", "car", "tree", "boat")


def save_clip(folder: Path) -> Path:
    """A CLIPModel of 32-pixel images with the studio's tokenizer."""
    torch.manual_seed(0)
    tokenizer = CLIPTokenizer.from_pretrained(model_path() / "tokenizer")
    tower = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
    }
    text = {
        **tower,
        "vocab_size": len(tokenizer),
        "max_position_embeddings": 24,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
    }
    config = CLIPConfig(
        text_config=text,
        vision_config={**tower, "image_size": 32, "patch_size": 8},
        projection_dim=16,
    )
    CLIPModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return _with_processor(folder, "CLIPImageProcessor")


def save_classifier(folder: Path, always: int | None = None) -> Path:
    """A ResNet of seven classes; with `always`, that class is the likeliest whatever is seen."""
    torch.manual_seed(0)
    config = ResNetConfig(
        embedding_size=8,
        hidden_sizes=[8, 16],
        depths=[1, 1],
        num_labels=len(CLASSES),
        id2label=dict(enumerate(CLASSES)),
        label2id={name: index for index, name in enumerate(CLASSES)},
    )
    model = ResNetForImageClassification(config)
    if always is not None:
        with torch.no_grad():
            model.classifier[-1].bias[always] = 1e4
    model.save_pretrained(folder)
    return _with_processor(folder, "ViTImageProcessor")


def save_vision(folder: Path) -> Path:
    """A ViT without a head."""
    torch.manual_seed(0)
    config = ViTConfig(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=32,
        patch_size=8,
    )
    ViTModel(config).save_pretrained(folder)
    return _with_processor(folder, "ViTImageProcessor")


def _with_processor(folder: Path, name: str) -> Path:
    content = {
        "image_processor_type": name,
        "do_resize": True,
        "size": {"height": 32, "width": 32},
        "do_center_crop": False,
        "do_normalize": True,
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
        "do_rescale": True,
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(content))
    return folder
