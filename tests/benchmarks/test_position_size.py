from functools import partial

import pytest
import torch
from stable_baselines3.common.policies import ActorCriticPolicy
from torch import nn

from agents.models.own_extractor import OBSERVATIONS, load_extractor
from benchmarks.position_size import HEADINGS, main, measure
from configs.run_config import parse_own_arm
from policies.coordconv import CoordConv2d
from policies.extractors import NatureCoordCNN
from tests.short_runs import short_config, train


def test_the_two_parts_by_hand():
    """One pixel in, one out; 2 x 2 places: the image's weight is 3, the row's 4, the column's 0."""
    layer = CoordConv2d(1, 1, kernel_size=1)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([3.0, 4.0, 0.0]).view(1, 3, 1, 1))
        assert layer.bias is not None
        layer.bias.fill_(7.0)
    images = torch.tensor([[[[1.0, 0.0], [0.0, 1.0]]]])
    # Rows at -1 and 1: -4 and 4 everywhere. The image adds 3, 0, 0 and 3.
    assert measure(layer, images) == pytest.approx((4.0, 4.5**0.5))
    plain = nn.Conv2d(1, 1, kernel_size=1)
    assert measure(plain, images)[0] == pytest.approx(0.0, abs=1e-6)


def test_at_the_start_coordinates_add_half_a_unit_and_more():
    for seed in range(4):
        torch.manual_seed(seed)
        network = NatureCoordCNN(OBSERVATIONS, coord_layers=[0])
        network.apply(partial(ActorCriticPolicy.init_weights, gain=2**0.5))
        assert 0.5 < measure(network.position_layers()[0], torch.rand(1, 4, 84, 84))[0] < 0.7


def test_the_row_of_a_run(tmp_path, capsys, refuse):
    config = short_config(coord_layers=[0], total_agent_steps=80)
    directory = train(tmp_path, config)
    (directory.checkpoints_path / "000000000080.zip").write_bytes(b"damaged")
    capsys.readouterr()
    assert main([str(directory.path)]) == 0
    *_, heading, _, row = capsys.readouterr().out.splitlines()
    assert heading == f"| {' | '.join(HEADINGS)} |"
    cells = row.strip("| ").split(" | ")
    assert cells[:2] == [config.name, "60"]
    assert 0.4 < float(cells[2]) < 0.7
    assert str(tmp_path) in refuse(main, [str(tmp_path)])


@pytest.mark.parametrize("changes", [{"algo": "dqn"}, {"extractor": "examples.impala:ImpalaCNN"}])
def test_a_run_without_such_a_layer_is_refused(tmp_path, refuse, changes):
    network = (
        {"network": load_extractor(parse_own_arm(name))}
        if (name := changes.pop("extractor", ""))
        else {}
    )
    directory = train(tmp_path, short_config(total_agent_steps=60, **changes).replace(**network))
    own = [f"--extractor={name}"] if name else []
    line = refuse(main, [str(directory.path), *own])
    assert f"error: {directory.path} is no A2C run with a convolution first; give one." in line


def test_the_row_of_a_network_of_ones_own(tmp_path, capsys):
    name = "examples.coordinates:ScaledCoordCNN"
    network = load_extractor(parse_own_arm(f"{name},scale=0.125"))
    directory = train(tmp_path, short_config(total_agent_steps=60).replace(network=network))
    capsys.readouterr()
    assert main([str(directory.path), "--extractor", name]) == 0
    cells = capsys.readouterr().out.splitlines()[-1].strip("| ").split(" | ")
    assert 0.4 / 8 < float(cells[2]) < 0.7 / 8
