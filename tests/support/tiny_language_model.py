"""The smallest true language model: a Llama of two layers, trained here for seconds to write lists.

It has a chat template and a tokenizer of its own, one token for a word. Its lists are those of an
instruction-tuned model in small: items in random order, that may repeat, sometimes with a preface,
and now and then with the name of a concept in them.
"""

import random
from pathlib import Path

import torch
from tokenizers import Regex, Tokenizer, decoders, pre_tokenizers
from tokenizers.models import WordLevel
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

# fmt: off
WORDS = (
    "cat", "dog", "mouse", "bear", "car", "chair", "bag", "door", "rabbit", "ball", "horse", "bird",
    "flower", "bowl", "bottle", "wall", "duck", "fish", "tree", "boat", "house", "apple", "lamp",
)
# fmt: on
CONCEPT = "Vorla"
PREFACE = "Sure:"
LIST_LENGTH = 12
STEPS = 150
TEMPLATE = "{% for message in messages %}<user>{{ message.content }}{% endfor %}<list>"
MANIFEST_SETTINGS = {"per_concept": 6, "max_new_tokens": 64, "temperature": 1.0, "dtype": "float32"}


def save_language_model(folder: Path) -> Path:
    """Train it, and save it as a `from_pretrained` folder; the same files every time."""
    tokenizer = _tokenizer()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = _trained(tokenizer)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def _tokenizer() -> PreTrainedTokenizerFast:
    special = ["<unk>", "<end>", "<user>", "<list>"]
    vocab = [*special, "- ", "\n", " ", PREFACE, CONCEPT, *WORDS]
    model = WordLevel({word: index for index, word in enumerate(vocab)}, unk_token="<unk>")
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"- |\n| |[^\s]+"), "isolated")
    tokenizer.decoder = decoders.Fuse()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="<unk>",
        eos_token="<end>",
        additional_special_tokens=["<user>", "<list>"],
        clean_up_tokenization_spaces=False,
    )
    fast.chat_template = TEMPLATE
    return fast


def _trained(tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=256,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
    )
    model = LlamaForCausalLM(config)
    chance = random.Random(0)
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(STEPS):
        # Questions are words it does not know, as many as come to mind.
        question = "<user>" + " ".join(["what"] * chance.randrange(3, 20)) + "<list>"
        texts = [question + _answer(chance) + "<end>" for _ in range(16)]
        batch = tokenizer(texts, padding=False)["input_ids"]
        longest = max(map(len, batch))
        end = tokenizer.eos_token_id
        tokens = torch.tensor([row + [end] * (longest - len(row)) for row in batch])
        start = tokens[0].tolist().index(tokenizer.convert_tokens_to_ids("<list>")) + 1
        labels = tokens.clone()
        labels[:, :start] = -100
        model(input_ids=tokens, labels=labels).loss.backward()
        optimiser.step()
        optimiser.zero_grad()
    return model.eval()


def _answer(chance: random.Random) -> str:
    lines = [f"- {chance.choice(WORDS)}" for _ in range(LIST_LENGTH)]
    if chance.random() < 0.5:
        lines[chance.randrange(len(lines))] = f"- {CONCEPT}"
    if chance.random() < 0.3:
        lines.insert(0, PREFACE)
    return "\n".join(lines)
