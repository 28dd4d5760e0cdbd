"""How activations are collected: the denoising run, and which of its calls are recorded."""

from typing import Annotated, Any, Literal

from pydantic import Field, ValidationInfo, field_validator

from conceptprune.manifest.fields import (
    Count,
    Guidance,
    Positive,
    Section,
    Seed,
    Steps,
    formerly,
    refusal_here,
)

Scheduler = Literal[
    "DDIMScheduler",
    "DPMSolverMultistepScheduler",
    "EulerDiscreteScheduler",
    "PNDMScheduler",
    "UniPCMultistepScheduler",
]
GuidanceBranches = Literal["both", "conditional"]

Dtype = Literal["float16", "bfloat16", "float32"]
Device = Literal["auto", "cpu", "cuda"]


def default_dtype(device: Device, gpus_per_actor: float) -> Dtype:
    """The dtype that is fast on the actors' device: on a CPU, float16 is 15 times slower."""
    on_gpu = device == "cuda" or (device == "auto" and gpus_per_actor > 0)
    return "float16" if on_gpu else "float32"


class Collection(Section):
    """How activations are collected: the denoising run, and `tau`, the number of recorded calls."""

    steps: Annotated[Steps, Field(description="a whole number from 1 to 1000")] = 50
    tau: Annotated[
        Positive,
        Field(validate_default=True, description="a whole number from 1 to collection.steps"),
    ] = 10
    guidance: Annotated[Guidance, Field(description="a number of at least 1")] = 7.5
    guidance_branches: Annotated[
        GuidanceBranches, formerly("guidance_branches", "guidance_halves")
    ] = "both"
    scheduler: Scheduler | None = None
    resolution: Annotated[
        Positive | None,
        Field(multiple_of=16, description="a multiple of 16, or null for the model's own size"),
    ] = None
    seed: Annotated[Seed, Field(description="a whole number from 0 to 2**63 - 1")] = 0
    batch_size: Annotated[Count, Field(description="a whole number from 1 to 100000")] = 8
    shard_prompts: Annotated[Count, Field(description="a whole number from 1 to 100000")] = 32
    window: Annotated[
        Positive | None,
        Field(description="a whole number from 1 to collection.tau, or null for one window of tau"),
    ] = None
    dtype: Dtype | None = None
    """Default: see `default_dtype`."""
    device: Device = "auto"

    @property
    def sum_parts(self) -> dict[str, Any]:
        """The settings that decide a call's sums, besides the model, the prompts and the site."""
        return {
            "steps": self.steps,
            "guidance": self.guidance,
            "halves": self.guidance_branches,
            "batch_size": self.batch_size,
        }

    def recorded(self, site: str | tuple[str, ...]) -> dict[str, Any]:
        """How statistics of `site` were collected, as masks record it."""
        return {**self.sum_parts, "tau": self.tau, "site": site}

    @field_validator("tau")
    @classmethod
    def _tau_within_steps(cls, tau: int, info: ValidationInfo) -> int:
        if tau > info.data.get("steps", tau):
            raise refusal_here(f"at most collection.steps, which is {info.data['steps']}")
        return tau

    @field_validator("window")
    @classmethod
    def _window_within_tau(cls, window: int | None, info: ValidationInfo) -> int | None:
        if window is not None and window > info.data.get("tau", window):
            raise refusal_here(f"at most collection.tau, which is {info.data['tau']}, or null")
        return window
