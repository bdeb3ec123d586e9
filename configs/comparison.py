"""What a comparison is of, and what its verdicts are judged by."""

from typing import Annotated

from pydantic import Field

from configs.settings import Flag, Settings, load_preset

MIN_SEEDS = 3  # fewer allow no verdict


class Design(Settings):
    """What is compared, as it is asked for."""

    games: Annotated[tuple[str, ...], Flag("--games", "games of the comparison", "NAME")]
    arms: Annotated[
        tuple[str, ...],
        Flag("--arms", "networks, the baseline first, such as coordconv-all-r", "ARM"),
    ]
    seeds: Annotated[int, Field(ge=1, le=1000), Flag("--seeds", "seeds per game and arm")]
    until_decided: Annotated[
        bool, Flag("--until-decided", "train seeds until each game is decided, or could not be")
    ]
    most_seeds: Annotated[
        int, Field(ge=MIN_SEEDS, le=100), Flag("--max-seeds", "seeds until decided, at most")
    ]


class Criteria(Settings):
    """What the verdicts are judged by; declared in the plan, before any run.

    comparison.toml says what each is.
    """

    # Of any false better or worse in a family of games, over all looks; and of any false similar.
    alpha: Annotated[float, Field(gt=0, le=0.5)]
    margin_fraction: Annotated[float, Field(ge=0, le=1)]
    # An arm has learned when its final score is above random play by this share of the distance to
    # the human, which covers the error of the tabulated score.
    learned_fraction: Annotated[float, Field(ge=0, le=1)]
    look_share: Annotated[float, Field(gt=0, lt=1)]
    power: Annotated[float, Field(ge=0.5, lt=1)]
    max_seeds: Annotated[int, Field(ge=MIN_SEEDS, le=10_000)]


class StoppingRule(Settings):
    """When a game needs no further seed; declared in a plan that goes on until decided.

    `experiments/comparison/statistics/sequential.py` says what the rule is.
    """

    first_look: Annotated[int, Field(ge=MIN_SEEDS, le=100)]  # seeds; then after each further one
    level_exponent: Annotated[float, Field(ge=0, le=10)]
    futility: Annotated[float, Field(ge=0, lt=0.5)]  # as a predictive probability of a verdict


def default_stopping_rule() -> StoppingRule:
    """That of comparison.toml."""
    return StoppingRule.parse(load_preset("comparison")["stopping"], "comparison.toml")


def default_criteria() -> Criteria:
    """Those of comparison.toml."""
    return Criteria.parse(load_preset("comparison")["criteria"], "comparison.toml")
