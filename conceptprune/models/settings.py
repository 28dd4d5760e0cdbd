"""What of a model stays on the device while others are at work; light to import."""

from typing import Literal

Offload = Literal["none", "encoders", "model", "sequential"]
"""What leaves the device, in order of less memory and more time:

- `none`: nothing does;
- `encoders`: text encoders are freed when the prompts at hand are encoded, before denoising starts,
  and loaded again (memory-mapped) when there are prompts that have not been encoded;
- `model`: also, the denoiser is on the host while they encode;
- `sequential`: also, the denoiser's layers are on the device only while they run.
"""
