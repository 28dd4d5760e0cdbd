"""No attack: prompts are used unchanged. Published adversarial prompts need no other attack.

Such a set is a source of the suite's erased group, `csv:`; see `evaluation/prompt_files.py`.
"""

from conceptprune.attacks.attempts import Attempt, Scene
from conceptprune.evaluation.attack_settings import Unattacked


def unattacked(scene: Scene, settings: Unattacked) -> list[Attempt]:
    """Generate one image per asked prompt."""
    seen = scene.generate(scene.asked, range(len(scene.asked)))
    return [
        Attempt(
            asked=asked.text,
            prompt=asked.text,
            seed=asked.seed,
            success=bool(success),
            images=1,
            steps=0,
        )
        for asked, success in zip(scene.asked, seen, strict=True)
    ]
