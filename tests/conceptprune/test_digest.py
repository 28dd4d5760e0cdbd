"""Seeds that follow from texts are the same in every version, so images can be repeated."""

from hashlib import sha256

import pytest

from conceptprune.attacks.attempts import attempt_seed
from conceptprune.digest import seed_from
from conceptprune.evaluation.items import derived_seed
from conceptprune.models.prompt import Prompt
from conceptprune.prompts.pairs import _derived_seed


@pytest.mark.parametrize("bits", [1, 32, 60, 63, 64])
def test_a_seed_is_the_first_bits_of_the_text_s_digest(bits: int) -> None:
    digest = f"{int(sha256(b'a cat').hexdigest(), 16):0256b}"
    assert f"{seed_from('a cat', bits=bits):0{bits}b}" == digest[:bits]


def test_the_seeds_of_pairs_suites_and_attacks_are_those_of_the_first_version() -> None:
    assert _derived_seed(7, 3) == 8097302511107748851
    assert derived_seed(7, "a cat") == 2604765457
    assert attempt_seed(7, Prompt(text="a cat", seed=1)) == 56561425946817452
    assert seed_from("bootstrap 7 of x", bits=64) == 2207547702358641754
