import pytest
from hypothesis import given
from hypothesis import strategies as st

from envs.seeding import game_seed

COUNTS = st.integers(0, 2**31 - 1)


@pytest.mark.parametrize(
    ("run_seed", "environment", "game_number", "purpose", "seed"),
    [
        (0, 0, 0, "training", 1_484_405_854),
        (0, 0, 0, "evaluation", 1_484_405_855),
        (0, 0, 1, "training", 1_915_600_864),
        (0, 1, 0, "training", 1_982_462_498),
        (1, 0, 0, "training", 917_752_062),
        (2**31 - 1, 15, 100_000, "training", 1_165_979_734),
    ],
)
def test_seeds_stay_what_they_were(run_seed, environment, game_number, purpose, seed):
    """Unfinished games of saved runs are rebuilt from these."""
    assert game_seed(run_seed, environment, game_number, purpose) == seed


@given(COUNTS, COUNTS, COUNTS)
def test_training_and_evaluation_seeds_never_meet(run_seed, environment, game_number):
    training = game_seed(run_seed, environment, game_number, "training")
    evaluation = game_seed(run_seed, environment, game_number, "evaluation")
    assert 0 <= training < 2**31
    assert 0 <= evaluation < 2**31
    assert training % 2 == 0
    assert evaluation % 2 == 1


def test_every_game_has_its_own_seed():
    seeds = {
        game_seed(run_seed, environment, game_number, "training")
        for run_seed in range(5)
        for environment in range(16)
        for game_number in range(25)
    }
    assert len(seeds) == 5 * 16 * 25
