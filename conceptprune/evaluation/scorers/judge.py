"""A judge: a small classifier in a folder, which says what thing an image shows and in whose style.

The folder has `model.safetensors` and `judge.json`, both described at `JudgeFile`. A model with
invented styles, which no published scorer knows, can bring its own judge in this form.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, TypeAdapter, ValidationError, ValidationInfo, field_validator

from conceptprune.digest import digest_file, digest_json
from conceptprune.errors import UserError
from conceptprune.evaluation.scorers.base import (
    Case,
    Domain,
    Facts,
    Metric,
    Reading,
    ScorerSettings,
)
from conceptprune.evaluation.scorers.libraries import versions_of
from conceptprune.manifest.fields import (
    Name,
    Positive,
    PromptText,
    Section,
    Some,
    beside,
    concept_key,
)
from conceptprune.models.images import Image
from conceptprune.strict_reading import read_regular

if TYPE_CHECKING:
    from conceptprune.evaluation.scorers.judge_network import JudgeNetwork

WEIGHTS, DESCRIPTION = "model.safetensors", "judge.json"
MOST_DESCRIPTION_BYTES = 2**20
Small = Annotated[Positive, Field(le=2**16)]
Layers = Annotated[Some[tuple[Small, Small]], Field(max_length=256)]


class JudgeFile(Section):
    """`judge.json`: the names of the network's classes, and its architecture.

    The network (`judge_network.JudgeNetwork`) is a trunk of two parts and a head for each domain.
    """

    format: Literal["conceptprune.judge/1"]
    side: Annotated[Positive, Field(le=4096, description="of its square images, in pixels")]
    fine: Annotated[Layers, Field(description="[channels, stride] of each first convolution")]
    coarse: Annotated[Layers, Field(description="[channels, stride] of each further convolution")]
    spread: bool = False
    """Whether the style head also takes the deviation of the fine features, besides their mean."""
    style: Annotated[Some[Name], Field(description="names of styles; the first is of none")]
    object: Annotated[Some[Name], Field(description="names of things")]


class JudgeSettings(ScorerSettings):
    """Accuracies of a judge, with weights and class names from a folder."""

    scorer: Literal["judge"]
    weights: Annotated[
        PromptText,
        Field(description=f"a folder with {WEIGHTS} and {DESCRIPTION}, relative to this file"),
    ]
    name: Annotated[Name | None, Field(description="a name, where one scorer is used twice")] = None

    @field_validator("weights")
    @classmethod
    def _relative_to_the_file(cls, weights: str, info: ValidationInfo) -> str:
        return beside(weights, info)

    @property
    def metrics(self) -> Mapping[str, Metric]:
        """Whether the style, and the thing, that an image should show are recognised: 1 or 0."""
        return ACCURACIES

    def check(self) -> Facts:
        """Check that the folder has both files, and that they belong together."""
        self.network()
        folder = Path(self.weights)
        digests = {name: digest_file(folder / name) for name in (WEIGHTS, DESCRIPTION)}
        return Facts(versions=versions_of("torch"), weights=digest_json(digests))

    def load(self, device: str) -> "JudgeScorer":
        """The judge; it is small and stays on the host."""
        return JudgeScorer(self.network(), self.described())

    def described(self) -> JudgeFile:
        """Read the folder's description of the judge.

        Raises:
            UserError: it is missing or invalid.
        """
        path = Path(self.weights, DESCRIPTION)
        try:
            return TypeAdapter(JudgeFile).validate_json(read_regular(path, MOST_DESCRIPTION_BYTES))
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"]))
            raise UserError(f"scorers: {path}: {where or 'content'}: {first['msg']}") from error
        except (OSError, ValueError) as error:
            why = getattr(error, "strerror", None) or error
            raise UserError(f"scorers: {path}: {why}") from error

    def network(self) -> "JudgeNetwork":
        """The network with its weights.

        Raises:
            UserError: they are missing, or do not fit such a network.
        """
        # Imported here because it imports torch.
        from conceptprune.evaluation.scorers.judge_network import load_judge

        return load_judge(Path(self.weights, WEIGHTS), self.described())


ACCURACIES: Mapping[str, Metric] = {
    f"{domain} accuracy": Metric(kept="higher", domain=domain, is_share=True)
    for domain in ("style", "object")
}


def accuracy(case: int, domain: Domain, seen: str, *, is_right: bool | None) -> Reading:
    """A judge's reading of an image in a domain; None if it has no class of that name."""
    value = None if is_right is None else float(is_right)
    return Reading(case=case, metric=f"{domain} accuracy", value=value, seen=seen)


class JudgeScorer:
    """Compares a judge's classes with the labels that an image should have."""

    def __init__(self, network: "JudgeNetwork", file: JudgeFile) -> None:
        self._network = network
        self._file = file
        self._known = {
            "style": frozenset(map(concept_key, file.style)),
            "object": frozenset(map(concept_key, file.object)),
        }

    def score(
        self, images: Sequence[Image], cases: Sequence[Case], references: Sequence[Image] | None
    ) -> list[Reading]:
        """A reading for the style of each image, and for its thing if it should show one.

        An image without a style label should have the first style, which means no style.
        """
        styles, things = self._network.classes(images, self._file.side)
        readings = []
        for index, case in enumerate(cases):
            style, thing = self._file.style[styles[index]], self._file.object[things[index]]
            wanted = case.label("style") or self._file.style[0]
            readings.append(
                accuracy(index, "style", style, is_right=self._is(style, wanted, "style"))
            )
            if (label := case.label("object")) is not None:
                right = self._is(thing, label, "object")
                readings.append(accuracy(index, "object", thing, is_right=right))
        return readings

    def _is(self, seen: str, wanted: str, domain: Domain) -> bool | None:
        if concept_key(wanted) not in self._known[domain]:
            return None
        return concept_key(seen) == concept_key(wanted)
