"""Tensors that tell how a single-file model is sampled, since the file has no config.

Readers of such files use them to tell the kinds of Stable Diffusion XL apart (ComfyUI's
`SDXL.model_type` in comfy/supported_models.py, and diffusers for the first):

- `edm_mean` and `edm_std`: an EDM model as Playground v2.5, with the latents' mean and spread by
  channel;
- `edm_vpred.sigma_max` and `edm_vpred.sigma_min`: an EDM model that predicts velocity, as CosXL;
- `v_pred`, empty: velocity, and `ztsnr`, empty: a noise schedule with zero terminal SNR;
- none of them: noise.
"""

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from conceptprune.errors import UserError
from conceptprune.models.components import read_index, read_json

EDM_MEAN, EDM_STD = "edm_mean", "edm_std"
EDM_MAX, EDM_MIN = "edm_vpred.sigma_max", "edm_vpred.sigma_min"
V_PRED, ZTSNR = "v_pred", "ztsnr"
SAMPLING_TENSORS = {EDM_MEAN, EDM_STD, EDM_MAX, EDM_MIN, V_PRED, ZTSNR}
"""Tensors that are not weights."""
PLAYGROUND = {"sigma_min": 0.002, "sigma_max": 80.0, "sigma_data": 0.5}
"""The sampling settings that readers assume for a file with `edm_mean`."""
PLAYGROUND_SCALE = 0.5
COSXL_SIGMA_DATA = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How a model is sampled, according to its folder's configs."""

    path: Path
    """Path of the scheduler's config."""
    scheduler: str
    config: Mapping[str, Any]
    vae: Mapping[str, Any]

    @classmethod
    def of(cls, folder: Path) -> "Sampling":
        """Read the configs of a `from_pretrained` folder.

        Raises:
            UserError: a config cannot be read.
        """
        path = folder / "scheduler" / "scheduler_config.json"
        return cls(
            path=path,
            scheduler=(read_index(folder).get("scheduler") or [None, ""])[1] or "",
            config=read_json(path),
            vae=read_json(folder / "vae" / "config.json"),
        )

    @property
    def edm(self) -> bool:
        """Noise levels and preconditioning of Karras et al. 2022."""
        return self.scheduler.startswith("EDM")

    @property
    def prediction(self) -> str:
        """What the denoiser predicts; noise if the config does not say."""
        return str(self.config.get("prediction_type", "epsilon"))

    @property
    def channels(self) -> tuple[list[float], list[float]] | None:
        """Mean and spread of the latents' channels, if the autoencoder has them."""
        mean, spread = self.vae.get("latents_mean"), self.vae.get("latents_std")
        return None if mean is None or spread is None else (list(mean), list(spread))

    def edm_setting(self, name: str) -> float:
        """A setting of an EDM scheduler; diffusers' default if the config does not say."""
        value = self.config.get(name)
        return PLAYGROUND[name] if value is None else float(value)


def sampling_tensors(folder: Path, *, xl: bool) -> dict[str, Tensor]:
    """The tensors for a single file of the model in `folder`.

    Raises:
        UserError: a single file cannot express how the model is sampled.
    """
    model = Sampling.of(folder)
    if model.edm:
        return _edm_tensors(model, xl=xl)
    if xl and model.channels is not None:
        raise _untold(
            model, "the autoencoder has latents_mean and latents_std without an EDM scheduler"
        )
    if model.prediction not in ("epsilon", "v_prediction"):
        raise _untold(model, f"prediction_type is {model.prediction}")
    told = {
        V_PRED: model.prediction == "v_prediction",
        ZTSNR: bool(model.config.get("rescale_betas_zero_snr")),
    }
    return {name: torch.empty(0) for name, so in told.items() if so}


def _edm_tensors(model: Sampling, *, xl: bool) -> dict[str, Tensor]:
    if not xl:
        raise _untold(model, f"{model.scheduler} is known for Stable Diffusion XL only")
    if model.prediction == "v_prediction":
        if model.channels is not None or model.edm_setting("sigma_data") != COSXL_SIGMA_DATA:
            raise _untold(
                model,
                "EDM models that predict velocity are taken to have sigma_data "
                f"{COSXL_SIGMA_DATA:g} and no latents_mean and latents_std",
            )
        return {
            name: torch.tensor(model.edm_setting(setting))
            for name, setting in ((EDM_MAX, "sigma_max"), (EDM_MIN, "sigma_min"))
        }
    own = {name: model.edm_setting(name) for name in PLAYGROUND}
    scale = model.vae.get("scaling_factor")
    if model.channels is None or own != PLAYGROUND or scale != PLAYGROUND_SCALE:
        wanted = ", ".join(f"{name} {value:g}" for name, value in PLAYGROUND.items())
        raise _untold(
            model,
            f"EDM models are taken to have {wanted}, latents_mean, latents_std and a "
            f"scaling_factor of {PLAYGROUND_SCALE:g} in their autoencoder",
        )
    mean, spread = (torch.tensor(values).view(1, -1, 1, 1) for values in model.channels)
    return {EDM_MEAN: mean, EDM_STD: spread}


def _untold(model: Sampling, why: str) -> UserError:
    return UserError(
        f"--as single-file: {why} ({model.path}), and programs that read single files could not "
        "tell: use pipeline, delta or mask"
    )


def check_sampling(file: Path, config: Path) -> None:
    """Check that a single file's sampling tensors do not contradict the configs given for it.

    Raises:
        UserError: they do; names the tensor, field and file.
    """
    with safe_open(file, framework="pt") as stream:
        names = set(stream.keys())
        told = {
            name: stream.get_tensor(name)
            for name in (EDM_MEAN, EDM_STD, EDM_MAX, EDM_MIN)
            if name in names
        }
    if not names & {EDM_MEAN, EDM_MAX, V_PRED, ZTSNR}:
        return
    model = Sampling.of(config)
    for name, field, found, wanted in _contradictions(model, names, told):
        raise UserError(
            f"model.file: {file} has the tensor {name}, which calls for {wanted}, and {field} "
            f"is {found}: give model.config the configs of the file's own model"
        )


def _contradictions(
    model: Sampling, names: Collection[str], told: Mapping[str, Tensor]
) -> list[tuple[str, str, Any, str]]:
    """(tensor, field, actual value, required value) of every contradiction."""
    prediction = f"prediction_type of {model.path}"
    scheduler = f"the scheduler of {model.path}"
    edm = EDM_MEAN if EDM_MEAN in names else EDM_MAX if EDM_MAX in names else None
    found: list[tuple[str, str, Any, str]] = []
    if edm is not None:
        predicts = "epsilon" if edm == EDM_MEAN else "v_prediction"
        if not model.edm:
            found.append((edm, scheduler, model.scheduler, "an EDM scheduler"))
        if model.prediction != predicts:
            found.append((edm, prediction, model.prediction, predicts))
        if edm == EDM_MAX and not _close([model.edm_setting("sigma_max")], told[EDM_MAX]):
            field = f"sigma_max of {model.path}"
            own = model.edm_setting("sigma_max")
            found.append((edm, field, own, f"{told[EDM_MAX].item():g}"))
        if edm == EDM_MEAN:
            own_channels = model.channels or ([], [])
            for name, field, own_values in zip(
                (EDM_MEAN, EDM_STD), ("latents_mean", "latents_std"), own_channels, strict=True
            ):
                if name in told and not _close(own_values, told[name]):
                    values = [round(value, 4) for value in told[name].flatten().tolist()]
                    where = f"{field} of vae/config.json"
                    found.append((name, where, own_values or None, str(values)))
    elif V_PRED in names:
        if model.edm:
            found.append((V_PRED, scheduler, model.scheduler, "one that is not EDM's"))
        if model.prediction != "v_prediction":
            found.append((V_PRED, prediction, model.prediction, "v_prediction"))
    if ZTSNR in names and not model.config.get("rescale_betas_zero_snr"):
        found.append((ZTSNR, f"rescale_betas_zero_snr of {model.path}", "false", "true"))
    return found


def _close(own: list[float], told: Tensor) -> bool:
    """Whether values equal those of a tensor, up to rounding in its dtype."""
    values = told.flatten().tolist()
    return len(own) == len(values) and all(
        math.isclose(a, b, rel_tol=1e-2) for a, b in zip(own, values, strict=True)
    )
