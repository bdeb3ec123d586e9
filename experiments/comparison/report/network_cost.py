"""What an arm's network costs."""

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import Field

from agents.algorithms.build import extractor_arguments
from agents.models.own_extractor import OBSERVATIONS, count_cost
from configs.run_config import BASELINE, NetworkSettings, parse_arm
from configs.settings import Settings
from policies.extractors import NatureCoordCNN

Count = Annotated[int, Field(ge=0, le=10**18)]


@dataclass(frozen=True)
class NetworkCost:
    """Of the features extractor; the layers behind it are the same in all arms.

    None is not known: of a user's own network that no run has told of.
    """

    parameters: int | None
    multiply_adds: int | None  # per observation
    multiply_adds_per_update: int  # for the position's part, once when the weights have changed


class _RecordedCost(Settings):
    parameters: Count
    multiply_adds: Count


def make_extractor(network: NetworkSettings) -> NatureCoordCNN:
    """The untrained features extractor of an arm."""
    return NatureCoordCNN(OBSERVATIONS, **extractor_arguments(network)["features_extractor_kwargs"])


def read_network_cost(starts: Iterable[dict[str, Any]]) -> NetworkCost:
    """What the runs of a user's own network have told of it; it is not made here."""
    for start in starts:
        with suppress(ValueError):  # a stranger's run may tell of anything
            told = _RecordedCost.parse(start.get("network_cost"))
            return NetworkCost(told.parameters, told.multiply_adds, 0)
    return NetworkCost(None, None, 0)


def compute_network_cost(network: NetworkSettings) -> NetworkCost:
    """Count an arm's parameters and multiply-adds; those of the map are an update's."""
    plain, whole = (count_cost(make_extractor(each)) for each in (parse_arm(BASELINE), network))
    adds = plain["multiply_adds"]
    return NetworkCost(whole["parameters"], adds, whole["multiply_adds"] - adds)
