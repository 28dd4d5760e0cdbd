"""Run the code of model cards, each with names of its own: a line of the input names its folder.

The answer is a line with how many zeros each parameter of the card's U-Net has.
"""

import json
import os
import re
import sys
from functools import partialmethod
from pathlib import Path
from typing import Any

from diffusers import StableDiffusionPipeline


def main() -> None:
    usual = StableDiffusionPipeline.__call__
    StableDiffusionPipeline.__call__ = partialmethod(usual, num_inference_steps=2)
    # What the cards print is not the answer.
    answers, sys.stdout = sys.stdout, sys.stderr
    for line in sys.stdin:
        os.chdir(json.loads(line))
        (code,) = re.findall(r"```python\n(.*?)```", Path("README.md").read_text(), re.DOTALL)
        names: dict[str, Any] = {}
        exec(code, names)
        zeros = [int((p == 0).sum()) for p in names["pipe"].unet.parameters()]
        print(json.dumps(zeros), file=answers, flush=True)


if __name__ == "__main__":
    main()
