"""A local instruction-tuned language model, asked through transformers.

Only safetensors weights are read, and code shipped with a model is never run. transformers takes
seconds to import and the driver only needs a model's digest, so it is imported where it is used.
"""

from pathlib import Path
from typing import Any

import torch

from conceptprune.digest import digest_file, digest_json
from conceptprune.errors import UserError
from conceptprune.manifest import Generator
from conceptprune.models.components import check_component, load_component
from conceptprune.models.weights import checkpoint_files
from conceptprune.prompts.fillers import Answer

CONFIGS = {".json", ".txt", ".model", ".jinja"}


def language_model_identity(folder: Path) -> str:
    """Digest of the files that decide what a language model says: weights, configs, tokenizer.

    Raises:
        UserError: it has no safetensors weights.
    """
    configs = (path for path in folder.glob("*") if path.suffix in CONFIGS)
    files = sorted({*configs, *checkpoint_files(folder)})
    return digest_json({path.name: digest_file(path) for path in files})


def check_language_model(folder: Path) -> None:
    """Check that a folder has a causal language model with all of its tensors.

    Raises:
        UserError: it does not; names the file and what is wrong with it.
    """
    import transformers

    check_component(transformers.AutoModelForCausalLM, folder)


class LanguageModel:
    """A causal language model and its tokenizer."""

    def __init__(self, model: Any, tokenizer: Any) -> None:
        self.model = model.eval()
        self.tokenizer = tokenizer

    @classmethod
    def load(cls, folder: Path, *, dtype: torch.dtype, device: str) -> "LanguageModel":
        """Load a `from_pretrained` folder.

        Raises:
            UserError: it is not a causal language model in safetensors, or needs code shipped with
            the model.
        """
        import transformers

        try:
            tokenizer = transformers.AutoTokenizer.from_pretrained(
                folder, local_files_only=True, trust_remote_code=False
            )
            model = load_component(transformers.AutoModelForCausalLM, folder, dtype)
        except (UserError, OSError, ValueError, ImportError, KeyError) as error:
            raise UserError(
                f"prompts.generator.model: cannot load a language model from {folder}: {error}"
            ) from error
        return cls(model.to(device), tokenizer)

    @torch.inference_mode()
    def answer(self, question: str, seed: int, generator: Generator) -> Answer:
        """Sample one answer; the same question and seed give the same one.

        Answers are sampled one at a time, so that batching cannot change a bit. The question goes
        through the tokenizer's chat template if there is one.

        Raises:
            UserError: question and answer are longer than the model can take.
        """
        inputs = self._inputs(question)
        length = inputs["input_ids"].shape[1]
        most = getattr(self.model.config, "max_position_embeddings", None)
        if most is not None and length + generator.max_new_tokens > most:
            raise UserError(
                f"prompts.generator.max_new_tokens: with the question's {length} tokens at most "
                f"{most - length}, as {generator.model.label} takes {most}"
            )
        device = self.model.device
        devices = [device] if device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed(seed)
            output = self.model.generate(
                **{name: tensor.to(device) for name, tensor in inputs.items()},
                do_sample=True,
                temperature=generator.temperature,
                top_p=generator.top_p,
                max_new_tokens=generator.max_new_tokens,
                pad_token_id=self._padding(),
            )
        tokens = output[0, length:]
        text = self.tokenizer.decode(tokens, skip_special_tokens=True)
        complete = len(tokens) < generator.max_new_tokens or int(tokens[-1]) in self._ends()
        return Answer(text=text, complete=complete)

    def _inputs(self, question: str) -> dict[str, torch.Tensor]:
        if self.tokenizer.chat_template is None:
            encoded = self.tokenizer(question, return_tensors="pt")
        else:
            encoded = self.tokenizer.apply_chat_template(
                [{"role": "user", "content": question}],
                add_generation_prompt=True,
                return_dict=True,
                return_tensors="pt",
            )
        return {name: encoded[name] for name in ("input_ids", "attention_mask")}

    def _ends(self) -> set[int]:
        ends = self.model.generation_config.eos_token_id
        return set() if ends is None else set(ends) if isinstance(ends, list) else {ends}

    def _padding(self) -> int | None:
        # A single answer needs no padding, but transformers warns if this is missing.
        known: int | None = self.tokenizer.pad_token_id
        return known if known is not None else min(self._ends(), default=None)
