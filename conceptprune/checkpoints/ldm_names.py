"""Names of Stable Diffusion's tensors in single files (LDM), for those of diffusers.

The names are those of CompVis' latent-diffusion, of OpenCLIP (2.x's encoder, XL's second one)
and of Stability's generative-models (XL's prefixes). Each function takes the keys of one component
of a diffusers pipeline; a key without a counterpart is an error, never left out.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from conceptprune.errors import UserError

UNET = "model.diffusion_model."
VAE = "first_stage_model."

BLOCK_TYPES = {"DownBlock2D", "CrossAttnDownBlock2D", "UpBlock2D", "CrossAttnUpBlock2D"}
_UNET_PARTS = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
_VAE_PARTS = {
    **{
        f"{side}.{part}": f"{side}.{part}"
        for side in ("encoder", "decoder")
        for part in ("conv_in", "conv_out")
    },
    **{f"{side}.conv_norm_out": f"{side}.norm_out" for side in ("encoder", "decoder")},
    "quant_conv": "quant_conv",
    "post_quant_conv": "post_quant_conv",
}
_VAE_ATTENTION = {
    "group_norm": "norm",
    "to_q": "q",
    "to_k": "k",
    "to_v": "v",
    "to_out.0": "proj_out",
    # The first names in diffusers, which the files of Stable Diffusion 1.5 still use.
    "query": "q",
    "key": "k",
    "value": "v",
    "proj_attn": "proj_out",
}
_OPEN_CLIP_PARTS = {
    "embeddings.token_embedding.weight": "token_embedding.weight",
    "embeddings.position_embedding.weight": "positional_embedding",
    "final_layer_norm.weight": "ln_final.weight",
    "final_layer_norm.bias": "ln_final.bias",
}
_OPEN_CLIP_LAYER = {
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
    "self_attn.out_proj": "attn.out_proj",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class LdmTensor:
    """One tensor of a single file, and what it is made from."""

    name: str
    keys: tuple[str, ...]
    """Keys in the component; several are joined along their first axis."""
    change: Literal["none", "convolution", "transposed"] = "none"
    """A linear [R, C] as a 1 x 1 convolution [R, C, 1, 1], or as [C, R]."""


def unet_tensors(keys: Iterable[str], config: Mapping[str, Any]) -> list[LdmTensor]:
    """The tensors of a `UNet2DConditionModel`.

    Raises:
        UserError: LDM has no such block or tensor.
    """
    layers = config["layers_per_block"]
    blocks = [*config["down_block_types"], *config["up_block_types"]]
    strange = sorted({block for block in blocks if block not in BLOCK_TYPES})
    if strange or not isinstance(layers, int):
        raise _unknown("unet", strange[0] if strange else f"layers_per_block {layers}")
    attentive = [block.startswith("CrossAttn") for block in config["up_block_types"]]
    return [LdmTensor(name=UNET + _unet_name(key, layers, attentive), keys=(key,)) for key in keys]


def _unet_name(key: str, layers: int, attentive: Sequence[bool]) -> str:
    module, _, parameter = key.rpartition(".")
    if module in _UNET_PARTS:
        return f"{_UNET_PARTS[module]}.{parameter}"
    parts = re.fullmatch(
        r"(?:(down|up)_blocks\.(\d+)|mid_block)\.(resnets|attentions|(?:down|up)samplers)\.(\d+)"
        r"\.(.+)",
        key,
    )
    if parts is None:
        raise _unknown("unet", key)
    side, kind, rest = parts[1], parts[3], parts[5]
    layer = int(parts[4])
    inner = rest if kind == "attentions" else _resnet_name(rest, key) if kind == "resnets" else None
    if side is None:
        return f"middle_block.{2 * layer + (kind == 'attentions')}.{inner}"
    block = int(parts[2])
    # A block's layers are numbered in order, and its sampler follows its last layer.
    first = block * (layers + 1)
    if kind == "downsamplers":
        return f"input_blocks.{1 + first + layers}.0.{_replaced(rest, 'conv', 'op', key)}"
    if kind == "upsamplers":
        place = 2 if attentive[block] else 1
        return f"output_blocks.{first + layers}.{place}.{_replaced(rest, 'conv', 'conv', key)}"
    name, number = ("input_blocks", 1 + first) if side == "down" else ("output_blocks", first)
    return f"{name}.{number + layer}.{int(kind == 'attentions')}.{inner}"


def _resnet_name(rest: str, key: str) -> str:
    module, _, parameter = rest.rpartition(".")
    if module not in _RESNET:
        raise _unknown("unet", key)
    return f"{_RESNET[module]}.{parameter}"


def _replaced(rest: str, module: str, name: str, key: str) -> str:
    found, _, parameter = rest.rpartition(".")
    if found != module:
        raise _unknown("unet", key)
    return f"{name}.{parameter}"


def vae_tensors(keys: Iterable[str], config: Mapping[str, Any]) -> list[LdmTensor]:
    """The tensors of an `AutoencoderKL`.

    Raises:
        UserError: LDM has no such tensor.
    """
    return [_vae_tensor(key, len(config["up_block_types"])) for key in keys]


def _vae_tensor(key: str, blocks: int) -> LdmTensor:
    module, _, parameter = key.rpartition(".")
    if module in _VAE_PARTS:
        return LdmTensor(name=f"{VAE}{_VAE_PARTS[module]}.{parameter}", keys=(key,))
    if mid := re.fullmatch(r"(encoder|decoder)\.mid_block\.attentions\.0\.(.+)", module):
        if mid[2] not in _VAE_ATTENTION:
            raise _unknown("vae", key)
        name = _VAE_ATTENTION[mid[2]]
        return LdmTensor(
            name=f"{VAE}{mid[1]}.mid.attn_1.{name}.{parameter}",
            keys=(key,),
            change="convolution" if parameter == "weight" and name != "norm" else "none",
        )
    if mid := re.fullmatch(r"(encoder|decoder)\.mid_block\.resnets\.(\d)\.(.+)", module):
        place = f"{mid[1]}.mid.block_{int(mid[2]) + 1}.{mid[3]}"
    elif down := re.fullmatch(r"encoder\.down_blocks\.(\d+)\.(.+)", module):
        place = f"encoder.down.{down[1]}.{down[2]}"
    elif up := re.fullmatch(r"decoder\.up_blocks\.(\d+)\.(.+)", module):
        # LDM counts a decoder's blocks from the image inwards.
        place = f"decoder.up.{blocks - 1 - int(up[1])}.{up[2]}"
    else:
        raise _unknown("vae", key)
    for theirs, ours in (
        (r"\.resnets\.(\d+)\.", r".block.\1."),
        (r"\.(down|up)samplers\.0\.conv$", r".\1sample.conv"),
        (r"\.conv_shortcut$", ".nin_shortcut"),
    ):
        place = re.sub(theirs, ours, place)
    if not re.search(r"\.(norm[12]|conv[12]?|nin_shortcut)$", place):
        raise _unknown("vae", key)
    return LdmTensor(name=f"{VAE}{place}.{parameter}", keys=(key,))


def clip_tensors(keys: Iterable[str], prefix: str) -> list[LdmTensor]:
    """The tensors of a CLIP text encoder that is named as in transformers, after `prefix`.

    Raises:
        UserError: there is a projection, which such an encoder does not have.
    """
    tensors = []
    for key in keys:
        bare = bare_name(key)
        if not bare.startswith(("embeddings.", "encoder.", "final_layer_norm.")):
            raise _unknown("text_encoder", key)
        tensors.append(LdmTensor(name=f"{prefix}text_model.{bare}", keys=(key,)))
    return tensors


def open_clip_tensors(keys: Iterable[str], prefix: str) -> list[LdmTensor]:
    """The tensors of a CLIP text encoder under OpenCLIP's names, after `prefix`.

    Raises:
        UserError: OpenCLIP has no such tensor.
    """
    by_bare_name = {bare_name(key): key for key in keys}
    return [
        _open_clip_tensor(bare, by_bare_name, prefix)
        for bare in by_bare_name
        if not re.search(r"\.self_attn\.[kv]_proj\.", bare)
    ]


def _open_clip_tensor(bare: str, by_bare_name: Mapping[str, str], prefix: str) -> LdmTensor:
    key = by_bare_name[bare]
    if bare in _OPEN_CLIP_PARTS:
        return LdmTensor(name=prefix + _OPEN_CLIP_PARTS[bare], keys=(key,))
    if bare == "text_projection.weight":
        return LdmTensor(name=f"{prefix}text_projection", keys=(key,), change="transposed")
    parts = re.fullmatch(r"encoder\.layers\.(\d+)\.(.+)\.(weight|bias)", bare)
    if parts is None:
        raise _unknown("text_encoder", key)
    block = f"{prefix}transformer.resblocks.{parts[1]}"
    if parts[2] == "self_attn.q_proj":
        queries_keys_values = tuple(
            by_bare_name[bare.replace(".q_proj.", f".{letter}_proj.")] for letter in "qkv"
        )
        return LdmTensor(name=f"{block}.attn.in_proj_{parts[3]}", keys=queries_keys_values)
    if parts[2] not in _OPEN_CLIP_LAYER:
        raise _unknown("text_encoder", key)
    return LdmTensor(name=f"{block}.{_OPEN_CLIP_LAYER[parts[2]]}.{parts[3]}", keys=(key,))


def bare_name(key: str) -> str:
    """A key of a CLIP text encoder without the prefix that some versions of transformers write."""
    return key.removeprefix("text_model.")


def _unknown(component: str, what: str) -> UserError:
    return UserError(
        f"a single file has no name for {what} of this model's {component}: export it as a "
        "pipeline or a delta"
    )
