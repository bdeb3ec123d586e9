import pytest

from configs.protocols import Protocol, load_protocol
from tests.refusals import refusal


@pytest.mark.parametrize(
    ("name", "no_op_max", "sticky", "one_life"),
    [
        ("baselines", 30, 0.0, True),  # what rl-baselines3-zoo trains on
        ("machado", 0, 0.25, False),  # section 5 of Machado et al. 2018
    ],
)
def test_protocols(name, no_op_max, sticky, one_life):
    assert load_protocol(name) == Protocol(
        frames_per_agent_step=4,
        no_op_max=no_op_max,
        sticky_action_probability=sticky,
        life_loss_ends_episode=one_life,
        fire_on_reset=one_life,
        clip_rewards=True,
        max_frames_per_game=108_000,
    )


@pytest.mark.parametrize(
    ("name", "remedy"),
    [("baseline", "did you mean `baselines`?"), ("x", "known: baselines, machado.")],
)
def test_unknown_protocol(name, remedy):
    assert refusal(load_protocol, name) == f"unknown protocol {name!r}; {remedy}"
