"""Taking an agent's position away after training."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from agents.evaluation.agent import find_model
from agents.evaluation.games import PlayedGame, play_games
from configs.run_config import parse_arm
from experiments.comparison.__main__ import main as write_reports
from experiments.comparison.report.network_cost import make_extractor
from experiments.comparison.report.position_use import (
    ablate_runs,
    read_weight_shares,
    take_position,
)
from experiments.comparison.report.render import write_report
from policies.position_controls import BiasMapConv2d
from tests.refusals import refusal
from tests.saved_agents import change_protocols
from tests.short_runs import short_config, train
from tests.synthetic_runs import plan_of, write_run

ARMS = ("coordconv", "coordconv-all-r", "bias-map", "random-channels-all")


def make_trained(arm: str):
    """An extractor whose position matters: bias maps start at zero."""
    torch.manual_seed(0)
    extractor = make_extractor(parse_arm(arm))
    for layer in extractor.position_layers().values():
        if isinstance(layer, BiasMapConv2d):
            torch.nn.init.normal_(layer.bias_map)
    return extractor


@pytest.mark.parametrize("arm", ARMS)
@torch.no_grad()
def test_intact_computes_the_same_and_zeroed_something_else(arm):
    images = torch.rand(2, 4, 84, 84)
    whole = make_trained(arm)(images)
    intact, zeroed = make_trained(arm), make_trained(arm)
    take_position(intact, "intact")
    take_position(zeroed, "zeroed")
    torch.testing.assert_close(intact(images), whole, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(zeroed(images), whole, atol=1e-3)


@torch.no_grad()
def test_zeroed_is_the_network_without_coordinates():
    images = torch.rand(2, 4, 84, 84)
    coord, plain = make_trained("coordconv"), make_extractor(parse_arm("cnn"))
    take_position(coord, "zeroed")
    state = coord.state_dict()
    del state["cnn.0.bias_map"]
    plain.load_state_dict(state)
    torch.testing.assert_close(coord(images), plain(images))


@pytest.mark.parametrize("arm", ARMS)
def test_shuffled_keeps_each_maps_values_and_loses_their_places(arm):
    before, after = make_trained(arm), make_trained(arm)
    take_position(after, "shuffled")
    for index, layer in before.position_layers().items():
        size = before.input_sizes()[index]
        old = layer.coordinate_map(*size).flatten(1)
        new = after.position_layers()[index].coordinate_map(*size).flatten(1)
        assert torch.equal(old.sort().values, new.sort().values)
        assert not torch.equal(old, new)


@pytest.mark.usefixtures("no_figures")
def test_a_finished_run_is_ablated_once_and_reported(tmp_path, monkeypatch, capsys):
    change_protocols(monkeypatch, max_frames_per_game=100)
    directory = train(tmp_path, short_config(coord_layers=[0], total_agent_steps=40))
    layers = []

    def play(policy: Any, *arguments: Any) -> Iterator[tuple[int, PlayedGame]]:
        layers.append(policy.features_extractor.cnn[0])
        return play_games(policy, *arguments)

    monkeypatch.setattr("experiments.comparison.report.position_use.play_games", play)
    ablate_runs(tmp_path, 1, 1)
    intact, zeroed, shuffled = (layer.bias_map for layer in layers)
    assert intact.any()
    assert not zeroed.any()
    assert torch.equal(*(values.flatten(1).sort().values for values in (intact, shuffled)))
    assert not torch.equal(intact, shuffled)
    path = directory.evaluation_path / "ablation.json"
    ablation = json.loads(path.read_text())
    assert ablation["trained_agent_steps"] == 40
    assert [len(ablation[name]) for name in ("intact", "zeroed", "shuffled")] == [1, 1, 1]
    capsys.readouterr()
    ablate_runs(tmp_path, 1, 1)
    assert capsys.readouterr().out == ""
    write_report(tmp_path)
    (use,) = json.loads((tmp_path / "report.json").read_text())["coordinate_use"]
    assert use["ablated_scores"]["intact"] == ablation["intact"][0]
    assert use["ablated_standard_errors"]["intact"] is None
    shares = read_weight_shares(directory.final_path, parse_arm("coordconv"))
    assert shares is not None
    share = shares[0]
    assert use["weight_share"] == {"0": share}
    assert 0.5 < share < 0.65  # at the start 1 / sqrt(3): two of six channels of the same scale
    ablation |= {"intact": [1, 3], "zeroed": [10, 10], "shuffled": [0, 6]}
    path.write_text(json.dumps(ablation))
    ablate_runs(tmp_path, 1, 1)  # fewer games than there are, which stay
    write_report(tmp_path)
    text = (tmp_path / "report.md").read_text()
    assert " | 1 | 2 | 2 ± 1 | 10 ± 0 | 3 ± 3 |\n" in text  # a deviation of sqrt(2), over sqrt(2)
    path.write_text('{"trained_agent_steps": 40, "intact": [], "zeroed": [], "shuffled": []}')
    line = refusal(write_report, tmp_path)
    assert line == f"{path}: has no games; delete the file and give --ablate again."


@pytest.mark.usefixtures("no_figures")
def test_so_many_of_the_first_seeds_are_ablated(tmp_path, monkeypatch, capsys, refuse):
    change_protocols(monkeypatch, max_frames_per_game=100)
    runs = [
        train(tmp_path, short_config(coord_layers=[0], total_agent_steps=20, seed=seed))
        for seed in (0, 1)
    ]
    for arguments, ablated in (["--seeds=1"], [True, False]), ([], [True, True]):
        assert write_reports([str(tmp_path), "--ablate", "--episodes=1", *arguments]) == 0
        found = [(run.evaluation_path / "ablation.json").exists() for run in runs]
        assert found == ablated
    line = refuse(write_reports, [str(tmp_path), "--seeds=1"])
    assert "error: --seeds is of --ablate, which is not given; add it." in line


def test_an_ablation_of_nothing_is_refused_and_a_lost_agent_told(tmp_path, capsys, refuse):
    write_run(tmp_path, plan_of(seeds=1).run_of("Pong", "cnn", 0), [1.0])
    assert refuse(write_reports, [str(tmp_path), "--ablate"]) == (
        f"error: --ablate: {tmp_path} has no run for it, of the seeds asked for, finished, and of "
        "a network of this project's that knows the position; leave it out."
    )
    directory = write_run(tmp_path, plan_of(seeds=1).run_of("Pong", "coordconv", 0), [1.0])
    ablate_runs(tmp_path, 1, 1)
    name = directory.path.relative_to(tmp_path)
    assert capsys.readouterr().out == f"{name}: is a run without its agent; left out.\n"
    assert refusal(find_model, directory, error=FileNotFoundError) == (
        f"{directory.path} is finished, but final.zip is missing; restore the file."
    )


def test_a_model_of_another_network_is_refused(tmp_path):
    directory = train(tmp_path, short_config(coord_layers=[0], total_agent_steps=40))
    line = refusal(read_weight_shares, directory.final_path, parse_arm("bias-map"))
    assert line == f"{directory.final_path} is not of the network its run asked for."
