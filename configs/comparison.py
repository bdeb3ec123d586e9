"""What a comparison is of, and what its verdicts are judged by."""

from typing import Annotated

from pydantic import Field

from configs.settings import Flag, Settings, load_preset

MIN_SEEDS = 3  # fewer allow no verdict


class Design(Settings):
    """What is compared, as it is asked for."""

    games: Annotated[tuple[str, ...], Flag("--games", "games of the comparison", "NAME")]
    arms: Annotated[tuple[str, ...], Flag("--arms", "networks, the baseline first", "ARM")]
    seeds: Annotated[int, Field(ge=1, le=1000), Flag("--seeds", "seeds per game and arm")]


class Criteria(Settings):
    """What the verdicts are judged by; declared in the plan, before any run.

    Attributes:
        alpha: Probability of any false better or worse in a family of games, over all looks; and of
            any false similar.
        margin_fraction: The margin, as a share of what the baseline gained over a random player.
        learned_fraction: An arm has learned when its final score is above random play by this share
            of the distance from random play to the human (covers the error of the tabulated score).
        look_share: Share of what is left of `alpha` that each look spends.
        power: Probability of a verdict that "more seeds" aims at.
        max_seeds: More seeds than these are never suggested.
    """

    alpha: Annotated[float, Field(gt=0, le=0.5)]
    margin_fraction: Annotated[float, Field(ge=0, le=1)]
    learned_fraction: Annotated[float, Field(ge=0, le=1)]
    look_share: Annotated[float, Field(gt=0, lt=1)]
    power: Annotated[float, Field(ge=0.5, lt=1)]
    max_seeds: Annotated[int, Field(ge=MIN_SEEDS, le=10_000)]


def default_criteria() -> Criteria:
    """Those of comparison.toml."""
    return Criteria.parse(load_preset("comparison")["criteria"], "comparison.toml")
