import pytest

from configs.protocols import Protocol, load_protocol, protocol_names
from tests.refusals import refusal


def test_baselines_is_what_rl_baselines3_zoo_trains_on():
    assert load_protocol("baselines") == Protocol(
        frames_per_agent_step=4,
        no_op_max=30,
        sticky_action_probability=0.0,
        life_loss_ends_episode=True,
        fire_on_reset=True,
        clip_rewards=True,
        max_frames_per_game=108_000,
    )


def test_machado_is_section_5_of_machado_et_al_2018():
    assert load_protocol("machado") == Protocol(
        frames_per_agent_step=4,
        no_op_max=0,
        sticky_action_probability=0.25,
        life_loss_ends_episode=False,
        fire_on_reset=False,
        clip_rewards=True,
        max_frames_per_game=108_000,
    )


def test_the_default_protocol_comes_first():
    assert protocol_names() == ["baselines", "machado"]


@pytest.mark.parametrize(
    ("name", "remedy"),
    [("baseline", "did you mean `baselines`?"), ("x", "known: baselines, machado.")],
)
def test_unknown_protocol(name, remedy):
    assert refusal(load_protocol, name) == f"unknown protocol {name!r}; {remedy}"
