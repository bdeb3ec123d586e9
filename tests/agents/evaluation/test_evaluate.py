"""Which games are scored, how an agent acts in them, and which models can be evaluated."""

import shutil
from typing import Any

import numpy as np
import pytest
import torch
from stable_baselines3.common.torch_layers import NatureCNN
from torch import nn

import envs.atari_vec_env
from agents.evaluation.agent import TrainedAgent, load_agent
from agents.evaluation.evaluate import find_median_game, format_table, summarise_returns
from agents.evaluation.games import (
    RecordedGame,
    choose_action,
    find_game_seed,
    make_generator,
    play_games,
    score_actions,
)
from agents.evaluation.video import replay_game
from agents.training.checkpoints import save_agent
from configs.protocols import Protocol, load_protocol
from configs.run_config import make_config
from envs.atari_vec_env import AtariVecEnv
from envs.games import find_game
from envs.seeding import game_seed
from policies.extractors import NatureCoordCNN
from runtime.run_directory import RunDirectory
from tests.refusals import refusal
from tests.saved_agents import CPU, FramesOfGame, make_ours, save_foreign, save_run

FIFTY_ACTIONS = load_protocol("baselines").replace(max_frames_per_game=200)


@pytest.fixture(scope="module")
def finished_run(tmp_path_factory) -> RunDirectory:
    return save_run(tmp_path_factory.mktemp("runs") / "run")


@pytest.fixture(scope="module")
def breakout_agent(finished_run) -> TrainedAgent:
    return load_agent(finished_run.path, None, None, CPU)


# --- acting ---------------------------------------------------------------------------------------

SCORES = np.log([0.1, 0.6, 0.3])


@pytest.mark.parametrize(
    ("epsilon", "expected"),
    [(None, [0.1, 0.6, 0.3]), (0.3, [0.1, 0.8, 0.1])],
    ids=["by their probabilities", "that share uniformly, the others the best"],
)
def test_how_actions_are_drawn(epsilon, expected):
    generator = np.random.default_rng(0)
    # Scores are probabilities up to a factor: adding to all of them changes nothing.
    drawn = [choose_action(SCORES + 50, epsilon, generator) for _ in range(20_000)]
    shares = np.bincount(drawn, minlength=3) / 20_000
    np.testing.assert_allclose(shares, expected, atol=0.012)  # over 3 standard deviations


def test_without_randomness_the_best_action_is_taken_and_nothing_drawn():
    generator = np.random.default_rng(0)
    assert {choose_action(SCORES, 0.0, generator) for _ in range(100)} == {1}
    assert generator.bit_generator.state == np.random.default_rng(0).bit_generator.state


# --- playing --------------------------------------------------------------------------------------


def play(agent: TrainedAgent, games: int, seed: int, protocol: Protocol = FIFTY_ACTIONS):
    return play_games(agent.policy, agent.game, protocol, games, seed, None)


def test_a_game_is_the_same_however_many_are_played(breakout_agent, monkeypatch):
    """Also when it is the second of its environment, beside two others or beside none."""
    monkeypatch.setattr("agents.evaluation.games.GAMES_SIDE_BY_SIDE", 3)
    many = list(play(breakout_agent, 5, 3))
    assert sorted(number for number, _ in many) == list(range(5))
    assert len({game.actions for _, game in many}) == 5
    assert {(len(game.actions), game.time_limit) for _, game in many} == {(50, True)}
    two = list(play(breakout_agent, 2, 3))
    assert sorted(number for number, _ in two) == [0, 1]
    assert dict(two).items() <= dict(many).items()
    four = dict(play(breakout_agent, 4, 3))
    assert four[3] == dict(many)[3]
    for _, game in many:  # the seed and the actions are all there is to it
        assert game.actions[:2] == b"\x01\x02"  # the presses at its start
        frames = list(replay_game(breakout_agent.game, FIFTY_ACTIONS, game))
        assert len(frames) == game.length_frames


@pytest.mark.parametrize("protocol_name", ["baselines", "machado"])
def test_the_agent_sees_what_it_saw_in_training(breakout_agent, protocol_name, monkeypatch):
    """A scored game is what training's own environment makes of the same seed and actions."""
    monkeypatch.setattr(envs.atari_vec_env, "EmulatedGame", RecordedGame)
    agent, protocol = breakout_agent, load_protocol(protocol_name)
    seen = []

    def note_and_score(policy, stacks):
        assert len(stacks) == 8  # whatever the number of games
        seen.append(stacks[0].copy())
        return score_actions(policy, stacks)

    with monkeypatch.context() as patch:
        patch.setattr("agents.evaluation.games.score_actions", note_and_score)
        [(_, played)] = play(agent, 1, 6, protocol)
    env: Any = AtariVecEnv(agent.game, protocol, 1, 6)
    generator = make_generator(6, 0)
    observations = np.zeros((8, 4, 84, 84), dtype=np.uint8)
    observations[:1] = env.reset()
    finished, episodes = None, 0
    for stack in seen:
        assert finished is None
        np.testing.assert_array_equal(stack, observations[0])
        scores = score_actions(agent.policy, observations)[0]
        action = choose_action(scores, None, generator)
        observations[:1], _, dones, [info] = env.step(np.array([action]))
        episodes += int(dones[0])
        finished = info.get("episode")
    assert finished is not None
    assert episodes == (5 if protocol_name == "baselines" else 1)  # lives
    assert (played.raw_return, played.length_frames) == (finished["r"], finished["l"])
    assert len(played.actions) == finished["agent_steps"]
    assert played.actions == bytes(env._batch.games[0].sent[: len(played.actions)])
    assert played.seed == game_seed(6, 0, 0, "evaluation")


@pytest.mark.parametrize(
    ("number", "environment", "number_there"), [(0, 0, 0), (7, 7, 0), (8, 0, 1), (29, 5, 3)]
)
def test_every_game_has_its_own_start(number, environment, number_there):
    assert find_game_seed(2, number) == game_seed(2, environment, number_there, "evaluation")
    assert find_game_seed(2, number) % 2 == 1  # training seeds are even


# --- loading --------------------------------------------------------------------------------------


def expected_scores(policy, observations):
    """What SB3's own model makes of observations."""
    pixels = torch.from_numpy(observations)
    with torch.no_grad():
        if hasattr(policy, "q_net"):
            return policy.q_net(pixels).double().numpy()
        return policy.get_distribution(pixels).distribution.logits.double().numpy()


@pytest.mark.parametrize("algo", ["a2c", "dqn"])
@pytest.mark.parametrize(
    "arm", [{"coord_layers": [0, 1, 2], "with_radius": True}, {"coord_layers": []}]
)
def test_our_model_file_acts_as_the_saved_agent(tmp_path, algo, arm):
    config, agent = make_ours(algo, **arm)
    path = tmp_path / "model.zip"
    save_agent(path, config, agent)
    loaded = load_agent(path, None, None, CPU)
    observations = FramesOfGame().reset()
    np.testing.assert_allclose(
        score_actions(loaded.policy, observations),
        expected_scores(agent.policy, observations),
        atol=1e-4,
    )
    assert (loaded.game.name, loaded.protocol_name) == ("Breakout", "baselines")
    assert (loaded.config, loaded.name) == (config, config.name)
    assert (loaded.model_name, loaded.trained_agent_steps) == ("model.zip", 1234)
    assert loaded.final_epsilon == (0.25 if algo == "dqn" else None)


@pytest.mark.parametrize(
    ("algorithm", "policy_kwargs", "epsilon"),
    [
        ("A2C", None, None),
        ("A2C", {"features_extractor_kwargs": {"features_dim": 64}}, None),
        ("A2C", {"share_features_extractor": False}, None),
        ("A2C", {"normalize_images": False}, None),
        ("PPO", None, None),
        ("PPO", {"share_features_extractor": False}, None),
        ("PPO", {"normalize_images": False, "ortho_init": False}, None),
        ("DQN", None, 0.02),
        # these are in the file as a pickle, with their names and values in words beside it
        ("DQN", {"activation_fn": nn.Tanh, "normalize_images": False}, 0.02),
        ("DQN", {"features_extractor_class": NatureCNN, "net_arch": []}, 0.02),
        ("DQN", {"optimizer_kwargs": {"eps": 1}}, 0.02),
        ("A2C", {"features_extractor_class": NatureCoordCNN, "net_arch": []}, None),
    ],
)
def test_a_model_of_plain_sb3_acts_as_it_does_there(tmp_path, algorithm, policy_kwargs, epsilon):
    path = tmp_path / "theirs.zip"
    model = save_foreign(path, algorithm, policy_kwargs)
    loaded = load_agent(path, "breakout", "machado", CPU)
    observations = FramesOfGame().reset()
    np.testing.assert_allclose(
        score_actions(loaded.policy, observations),
        expected_scores(model.policy, observations),
        rtol=1e-4,
        atol=1e-4,
    )
    assert (loaded.game.name, loaded.protocol_name) == ("Breakout", "machado")
    assert (loaded.config, loaded.name, loaded.trained_agent_steps) == (None, "theirs.zip", 77)
    assert loaded.final_epsilon == epsilon


def test_a_model_is_found_by_the_name_given_to_sb3(tmp_path):
    save_foreign(tmp_path / "model", "A2C")
    assert load_agent(tmp_path / "model", "Breakout", None, CPU).model_name == "model.zip"
    with pytest.raises(FileNotFoundError, match=f"{tmp_path}/mode does not exist; check the path."):
        load_agent(tmp_path / "mode", "Breakout", None, CPU)


def test_an_unfinished_run_gives_its_newest_good_checkpoint(tmp_path, capsys):
    directory = save_run(tmp_path / "run", state="interrupted")
    shutil.copy(directory.checkpoints_path / "000000000100.zip", directory.final_path)  # outdated
    loaded = load_agent(directory.path, None, None, CPU)
    assert loaded.model_name == "checkpoints/000000000200.zip"
    assert loaded.trained_agent_steps == 200
    assert capsys.readouterr().out == (
        f"{directory.path} is not finished (interrupted); its checkpoint 000000000200.zip is "
        "used.\n"
    )
    newest = directory.checkpoints_path / "000000000200.zip"
    newest.write_bytes(newest.read_bytes()[:-1])
    assert load_agent(directory.path, None, None, CPU).trained_agent_steps == 100
    damaged, evaluated = capsys.readouterr().out.splitlines()
    assert damaged.startswith(f"{newest} is damaged")
    assert evaluated.endswith("its checkpoint 000000000100.zip is used.")


def test_a_directory_with_another_runs_model_is_refused(tmp_path, finished_run):
    path = tmp_path / "run"
    shutil.copytree(finished_run.path, path)
    config = make_config("Breakout", "a2c", {"n_envs": 1, "coord_layers": [1], "gamma": 0.9})
    (path / "config.json").write_text(config.to_json())
    assert refusal(load_agent, path, None, None, CPU) == (
        f"{path / 'final.zip'} is of another run than {path} (coord_layers, gamma differ); "
        "evaluate the model file itself."
    )


CHANNELS = (
    "{path} sees 3 channels at once; give an agent that sees 4 frames and no coordinates, or a run "
    "of this project."
)
OTHER_ACTIONS = (
    "{{path}} chooses among {} actions, Pong has 6; name the game it was trained on with --game"
)


@pytest.mark.parametrize(
    ("space", "game", "message"),
    [
        ({"frames": 3}, "Breakout", CHANNELS),
        ({"actions": 4}, "Pong", OTHER_ACTIONS.format(4) + "."),
        (
            {"actions": 18},
            "Pong",
            OTHER_ACTIONS.format(18) + ", or give an agent trained without full_action_space.",
        ),
    ],
)
def test_a_model_that_cannot_play_the_game_is_refused(tmp_path, space, game, message):
    path = tmp_path / "theirs.zip"
    save_foreign(path, "A2C", **space)
    assert refusal(load_agent, path, game, None, CPU) == message.format(path=path)


# --- reporting ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("returns", "mean", "deviation", "margin"),
    [
        ([1, 2, 3], 2.0, 1.0, 4.302653 / 3**0.5),  # t of 2 degrees of freedom, from tables
        ([0, 0, 0, 8], 2.0, 4.0, 3.182446 * 4 / 2),  # of 3
    ],
)
def test_the_interval_is_students(returns, mean, deviation, margin):
    summary = summarise_returns(returns)
    assert summary["mean_return"] == mean
    assert summary["standard_deviation"] == deviation
    assert summary["interval_95"] == pytest.approx([mean - margin, mean + margin], abs=1e-5)
    assert summary["no_interval_because"] is None


@pytest.mark.parametrize(
    ("returns", "deviation", "reason"),
    [([7], None, "one game"), ([-21, -21], 0.0, "all returns are equal")],
)
def test_what_shows_no_variation_has_no_interval(returns, deviation, reason):
    assert summarise_returns(returns) == {
        "mean_return": returns[0],
        "standard_deviation": deviation,
        "interval_95": None,
        "no_interval_because": reason,
    }


@pytest.mark.parametrize(
    ("returns", "game"),
    [([7], 0), ([3, 1, 2], 2), ([4, 1, 3, 2], 3), ([5, 1, 1, 5, 1], 1), ([0, 9], 0)],
)
def test_the_median_game_is_one_that_was_played(returns, game):
    assert find_median_game(returns) == game


@pytest.mark.parametrize(
    ("report", "returns", "told"),
    [
        (
            {
                "run": "Pong/a2c-cnn/seed3",
                "algo": "a2c",
                "arm": "cnn",
                "run_seed": 3,
                "trained_agent_steps": 2_000_000,
                "different_games": 2,
                "human_normalised_score": find_game("Pong").human_normalised_score(2.0),
            },
            [1, 2, 3],
            "a2c-cnn/seed3|2_000_000 agent steps|3, 2 different|2.0|1.0|-0.5 to 4.5|0.643",
        ),
        (  # a dash for what is unknown
            {
                "run": None,
                "model": "theirs.zip",
                "trained_agent_steps": None,
                "different_games": 1,
                "human_normalised_score": None,
            },
            [-20],
            "theirs.zip|unknown|1, 1 different|-20.0|-|- (one game)|-",
        ),
    ],
)
def test_the_table(report, returns, told):
    names = ["agent", "trained", "games", "mean return", "standard deviation", "95 % interval"]
    names = ["game", *names, "human-normalised"]
    report |= {"game": "Pong", "returns": returns} | summarise_returns(returns)
    assert format_table(report).splitlines() == [
        f"{name:20}{value}" for name, value in zip(names, ["Pong", *told.split("|")], strict=True)
    ]
