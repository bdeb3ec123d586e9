"""What an arm's network costs, and how much a trained one uses the position."""

import math
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import nn

from agents.algorithms.build import extractor_arguments
from agents.models.model_file import read_model_zip
from agents.models.own_extractor import OBSERVATIONS
from configs.run_config import NetworkSettings
from configs.settings import Settings
from experiments.comparison.report.records import RunRecord
from policies.extractors import NatureCoordCNN

SHARES_NAME = "weight_shares.json"  # in a packed run
_EXTRACTORS = ("features_extractor.", "q_net.features_extractor.")  # of A2C, of DQN


Count = Annotated[int, Field(ge=0, le=10**18)]


@dataclass(frozen=True)
class NetworkCost:
    """Of the features extractor; the layers behind it are the same in all arms.

    None is not known: of a user's own network that no run has told of.
    """

    parameters: int | None
    multiply_adds: int | None  # per observation
    multiply_adds_per_update: int  # for the position's part, once when the weights have changed


class _Told(Settings):
    parameters: Count
    multiply_adds: Count


def make_extractor(network: NetworkSettings) -> NatureCoordCNN:
    """The untrained features extractor of an arm."""
    return NatureCoordCNN(OBSERVATIONS, **extractor_arguments(network)["features_extractor_kwargs"])


def read_network_cost(starts: Iterable[dict[str, Any]]) -> NetworkCost:
    """What the runs of a user's own network have told of it; it is not made here."""
    for start in starts:
        with suppress(ValueError):  # a stranger's run may tell of anything
            told = _Told.parse(start.get("network_cost"))
            return NetworkCost(told.parameters, told.multiply_adds, 0)
    return NetworkCost(None, None, 0)


@torch.no_grad()
def compute_network_cost(network: NetworkSettings) -> NetworkCost:
    """Count an arm's parameters and multiply-adds."""
    extractor = make_extractor(network)
    per_observation, per_update = 0, 0
    output = torch.zeros(1, *OBSERVATIONS.shape)
    for layer in (*extractor.cnn, *extractor.linear):
        output = layer(output)
        if isinstance(layer, nn.Conv2d):
            # BiasMapConv2d's map is a weight as it is, and costs an update nothing.
            extra = layer.weight.shape[1] - layer.in_channels
            products = output.numel() * math.prod(layer.kernel_size)
            per_observation += products * layer.in_channels
            per_update += products * extra
        elif isinstance(layer, nn.Linear):
            per_observation += layer.weight.numel()
    parameters = sum(weight.numel() for weight in extractor.parameters())
    return NetworkCost(parameters, per_observation, per_update)


def find_weight_shares(run: RunRecord) -> dict[int, float] | None:
    """The shares of a run's weights at its end, packed or not; None if it has none.

    Raises:
        OSError, ValueError: If the model, or a packed run, cannot be read; one line.
    """
    directory, network = run.directory, run.config.network
    if directory.is_packed():
        shares = directory.read_json(SHARES_NAME)
        if shares is None:
            return None
        with suppress(AttributeError, TypeError, ValueError):
            found = {int(layer): float(share) for layer, share in shares.items()}
            are_shares = all(0 <= share <= 1 for share in found.values())
            if are_shares and sorted(found) == list(network.coord_layers):
                return found
        raise ValueError(
            f"{directory.packed_path}: {SHARES_NAME} are not shares; restore the file."
        )
    if network.extractor or run.state != "finished":
        return None  # one that was made longer and diverged has the model of its earlier end
    try:
        return read_weight_shares(directory.final_path, network)
    except FileNotFoundError:
        return None


def read_weight_shares(model: Path, network: NetworkSettings) -> dict[int, float] | None:
    """The L2 norm of the position's weights over that of all, by convolution, of a saved model.

    None where they are no numbers, or all zero.

    Raises:
        OSError: If there is no such file; one line.
        ValueError: If it is damaged or of another network; one line.
    """
    state = read_model_zip(model).policy_state
    extractor = make_extractor(network)
    own = {
        name.partition("features_extractor.")[2]: value
        for name, value in state.items()
        if name.startswith(_EXTRACTORS)
    }
    try:
        extractor.load_state_dict(own)
    except RuntimeError:
        raise ValueError(f"{model} is not of the network its run asked for.") from None
    shares = {
        index: layer.coordinate_weight_share()
        for index, layer in extractor.position_layers().items()
    }
    return shares if all(map(math.isfinite, shares.values())) else None
