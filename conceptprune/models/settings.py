"""Which parts of a model stay on the device when idle; light to import."""

from typing import Literal

Offload = Literal["none", "encoders", "model", "sequential"]
"""What leaves the device, from most memory and least time to the opposite:

- `none`: nothing;
- `encoders`: text encoders are freed once the current prompts are encoded, before denoising starts,
  and loaded again (memory-mapped) when new prompts have to be encoded;
- `model`: in addition, the denoiser is on the host while they encode;
- `sequential`: in addition, each denoiser layer is on the device only while it runs.
"""
