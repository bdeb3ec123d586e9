"""How much a trained agent uses the position: its weights' share, and what it loses without it.

Where a convolution knows the position, position adds one map to its output. The agent plays the
same games three times: with its maps as trained, with zeros, and with the positions of each map
shuffled, which keeps the map's values and loses where they were.
"""

import math
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from agents.evaluation.agent import load_agent
from agents.evaluation.games import play_games
from agents.models.model_file import read_model_zip
from configs.run_config import NetworkSettings
from configs.settings import Settings
from experiments.comparison.report.network_cost import make_extractor
from experiments.comparison.report.records import RunRecord, gather
from policies.coordconv import plain_convolution
from policies.extractors import NatureCoordCNN
from policies.position_controls import BiasMapConv2d
from runtime.files import write_json

Variant = Literal["intact", "zeroed", "shuffled"]
VARIANTS: tuple[Variant, ...] = ("intact", "zeroed", "shuffled")
ABLATION_NAME = "evaluation/ablation.json"
SHARES_NAME = "weight_shares.json"  # in a packed run
_EXTRACTORS = ("features_extractor.", "q_net.features_extractor.")  # of A2C, of DQN
_SEED = 0  # of the games, the agent's draws and the shuffling


class _Ablation(Settings):
    trained_agent_steps: Annotated[int, Field(ge=0)]
    intact: tuple[int, ...]
    zeroed: tuple[int, ...]
    shuffled: tuple[int, ...]


def ablate_runs(runs: Path, games: int, seeds: int) -> None:
    """Play so many games of each variant by every finished run whose network knows the position.

    Each run of so many of the first seeds gets its `evaluation/ablation.json`, unless it has one of
    as many games already. One whose agent is gone is left out, with a line.

    Raises:
        OSError: If there are no runs; one line.
        ValueError: If none of them is such a run, or a model is damaged; one line.
    """
    torch.set_num_threads(1)
    comparison = gather(runs)
    found = [
        run
        for run in comparison.runs.values()
        if run.config.run.seed in comparison.plan.seeds[:seeds]
        and run.state == "finished"
        and run.config.network.coord_layers
    ]
    if not found:
        raise ValueError(
            f"--ablate: {runs} has no run for it, of the seeds asked for, finished, and of a "
            "network of this project's that knows the position; leave it out."
        )
    for run in found:
        there = read_ablation(run)
        if there is not None and len(there["intact"]) >= games:
            continue
        if not run.directory.final_path.exists():
            what = "a packed run" if run.directory.is_packed() else "a run"
            print(f"{run.config.name}: is {what} without its agent; left out.", flush=True)
            continue
        returns = {variant: _play(run, variant, games) for variant in VARIANTS}
        run.directory.evaluation_path.mkdir(exist_ok=True)
        write_json(
            run.directory.path / ABLATION_NAME,
            {"trained_agent_steps": run.config.run.total_agent_steps, **returns},
        )
        means = ", ".join(f"{variant} {np.mean(returns[variant]):.1f}" for variant in VARIANTS)
        print(f"{run.config.name}: mean return ({games} games each): {means}", flush=True)


def read_ablation(run: RunRecord) -> dict[Variant, Sequence[int]] | None:
    """The returns of a run's games by variant; None if they were not played at its length.

    Raises:
        ValueError: If the file is damaged; one line.
    """
    path = run.directory.path / ABLATION_NAME
    try:
        values = run.directory.read_json(ABLATION_NAME)
    except FileNotFoundError:
        return None
    if not isinstance(values, dict):
        raise ValueError(f"{path}: not an ablation; delete the file and give --ablate again.")
    ablation = _Ablation.parse(values, str(path))
    returns: dict[Variant, Sequence[int]] = {name: getattr(ablation, name) for name in VARIANTS}
    if not all(returns.values()):
        raise ValueError(f"{path}: has no games; delete the file and give --ablate again.")
    fits = ablation.trained_agent_steps == run.config.run.total_agent_steps
    return returns if fits else None


def take_position(extractor: NatureCoordCNN, variant: Variant) -> None:
    """Replace the maps of a trained extractor's position by those of a variant, in place.

    "intact" keeps what it computes, but as a fixed map.
    """
    generator = torch.Generator().manual_seed(_SEED)

    def change(position_map: Tensor) -> Tensor:
        if variant == "zeroed":
            return torch.zeros_like(position_map)
        if variant == "shuffled":
            order = torch.randperm(position_map[0].numel(), generator=generator)
            return position_map.flatten(1)[:, order].view_as(position_map)
        return position_map

    sizes = extractor.input_sizes()
    for index, layer in extractor.position_layers().items():
        size = sizes[index]
        fixed = BiasMapConv2d(plain_convolution(layer), size)
        with torch.no_grad():
            fixed.bias_map.copy_(change(layer.coordinate_map(*size)))
        extractor.cnn[2 * index] = fixed


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


def _play(run: RunRecord, variant: Variant, games: int) -> list[int]:
    """The returns of the agent's games; an actor samples, a DQN agent explores as it ended."""
    agent = load_agent(run.directory.path, None, None, torch.device("cpu"))
    policy: Any = agent.policy
    take_position(getattr(policy, "q_net", policy).features_extractor, variant)
    epsilon, protocol = agent.final_epsilon, agent.protocol
    played = dict(play_games(policy, agent.game, protocol, games, _SEED, epsilon))
    return [played[number].raw_return for number in range(games)]
