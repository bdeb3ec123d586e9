"""Whole runs on real games: what they leave behind, and that stopping changes nothing of it."""

import csv
import json
import math
import shutil
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import stable_baselines3
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from agents.algorithms.divergence import Divergence
from agents.evaluation.agent import load_agent
from agents.models.model_file import read_model_zip, read_newest_checkpoint
from agents.training.run import _learn, plan_run
from benchmarks.soak import compare_runs, read_games, read_scalars
from configs.protocols import load_protocol
from configs.run_config import RunConfig
from envs.atari_vec_env import AtariVecEnv
from envs.games import find_game
from runtime.episodes import EPISODE_COLUMNS
from runtime.files import write_atomically
from runtime.provenance import hash_source
from runtime.run_directory import RunDirectory, RunStatus
from tests.refusals import refusal
from tests.saved_agents import change_protocols
from tests.short_runs import ShortRun, short_config, train


def config_of(algo: str, **overrides: Any) -> RunConfig:
    """Long enough for games to end and for the replay buffer to wrap around."""
    common: dict[str, Any] = {
        "total_agent_steps": 600,
        "log_every_agent_steps": 50,
        "checkpoint_every_agent_steps": 100,
        "coord_layers": [0],
    }
    if algo == "dqn":  # with two threads, target values are computed ahead
        common |= {"buffer_size": 150, "learning_starts": 80, "train_freq": 4, "threads": 2}
        common |= {"exploration_initial_eps": 0.1, "exploration_final_eps": 0.1}
    return short_config(algo, **common | overrides)


@pytest.fixture(scope="module", params=["a2c", "dqn"])
def uninterrupted(request, tmp_path_factory) -> RunDirectory:
    return train(tmp_path_factory.mktemp("uninterrupted"), config_of(request.param))


@pytest.fixture
def again(uninterrupted, tmp_path) -> ShortRun:
    """The same run, not begun."""
    return ShortRun(tmp_path, uninterrupted.read_config())


def test_a_run_leaves_what_it_promises(uninterrupted):
    config = uninterrupted.read_config()
    assert config == config_of(config.run.algo)
    assert uninterrupted.read_status() == RunStatus(state="finished", agent_steps=600)
    start = json.loads(uninterrupted.provenance_path.read_text())["starts"][0]
    assert start["threads"] == config.execution.threads
    assert start["device"] == "cpu"
    assert start["protocol"]["life_loss_ends_episode"] is True
    names = sorted(path.name for path in uninterrupted.checkpoints_path.iterdir())
    assert len(names) == 2
    assert names[-1] == "000000000600.zip"
    with uninterrupted.episodes_path.open() as file:
        episodes = list(csv.DictReader(file))
    assert len(episodes) >= 2
    assert all(float(row["seconds"]) > 0 for row in episodes)
    assert all(0 < int(row["agent_steps"]) <= 600 for row in episodes)
    assert all(int(row["length_frames"]) > int(row["length_agent_steps"]) for row in episodes)


def test_tensorboard_has_sb3s_tags_and_the_games(uninterrupted):
    scalars = read_scalars(uninterrupted)
    algo = uninterrupted.read_config().run.algo
    expected = {
        "rollout/ep_rew_mean",
        "rollout/ep_len_mean",
        "return/Breakout",
        "return_per_game/Breakout",
        "train/coordinate_weight_share_layer0",
        *(f"train/live_filters_layer{index}" for index in range(3)),
        "train/learning_rate",
        "train/loss" if algo == "dqn" else "train/policy_loss",
    }
    assert expected <= scalars.keys()
    if algo == "dqn":
        assert "rollout/exploration_rate" in scalars
    steps = [step for step, _ in scalars["train/learning_rate"]]
    assert steps == sorted(set(steps))
    assert steps[-1] == 600
    # Position's share at the start, which the others are seen against.
    assert scalars["train/coordinate_weight_share_layer0"][0][0] == 0
    rows = [
        dict(zip(EPISODE_COLUMNS, row.split(","), strict=False))
        for row in read_games(uninterrupted)
    ]
    games = {(row["agent_steps"], row["return"]) for row in rows}
    for step, value in scalars["return_per_game/Breakout"]:
        assert (str(step), f"{float.fromhex(value):.0f}") in games
    # The mean of the last 100 games, whichever they were.
    returns = [float(row["return"]) for row in rows]
    mean = float.fromhex(scalars["return/Breakout"][-1][1])
    assert mean == pytest.approx(sum(returns) / len(returns))


def test_tensorboard_has_the_config_a_chart_and_the_maps(uninterrupted):
    events = EventAccumulator(str(uninterrupted.path)).Reload()
    (text,) = events.Tensors("config/text_summary")
    assert uninterrupted.read_config().to_json().encode() in text.tensor_proto.string_val[0]
    (layout,) = events.Tensors("custom_scalars__config__")
    assert b"^return/Breakout$" in layout.tensor_proto.string_val[0]
    assert next(image.step for image in events.Images("train/coordinate_map_layer0")) == 0
    assert "hparams" in events.summary_metadata["_hparams_/experiment"].plugin_data.plugin_name


def test_stopping_changes_nothing(uninterrupted, again):
    for updates in (13, 1, 29):
        again.stop_after(updates)
    assert compare_runs(uninterrupted, again.train()) == []


def test_another_seed_gives_another_run(uninterrupted, tmp_path):
    config = config_of(uninterrupted.read_config().run.algo, seed=1, total_agent_steps=400)
    other = train(tmp_path, config)
    first, *_ = read_games(other)
    assert first not in read_games(uninterrupted)
    assert compare_runs(uninterrupted, other) == [
        "weights",
        "optimiser state",
        "episodes.csv",
        "TensorBoard scalars",
    ]


def test_the_games_are_those_of_the_runs_seed_and_protocol(tmp_path, monkeypatch):
    made = []

    def record(*arguments: Any) -> AtariVecEnv:
        made.append(arguments)
        return AtariVecEnv(*arguments)

    monkeypatch.setattr("agents.training.run.AtariVecEnv", record)
    config = short_config(seed=5, protocol="machado", total_agent_steps=20)
    directory = train(tmp_path, config)
    protocol = load_protocol("machado")
    assert made == [(find_game("Breakout"), protocol, 2, 5)]
    (start,) = json.loads(directory.provenance_path.read_text())["starts"]
    assert start["protocol"] == protocol.model_dump()
    agent = load_agent(directory.path, None, None, torch.device("cpu"))
    assert (agent.protocol_name, agent.protocol) == ("machado", protocol)


def test_plain_sb3_opens_checkpoints_and_the_final_model(uninterrupted):
    algo = uninterrupted.read_config().run.algo
    algorithm: Any = {"a2c": stable_baselines3.A2C, "dqn": stable_baselines3.DQN}[algo]
    checkpoint = read_newest_checkpoint(uninterrupted)
    assert checkpoint is not None
    for path in (uninterrupted.final_path, checkpoint.path):
        model = algorithm.load(path, device="cpu", custom_objects={"buffer_size": 10})
        state = read_model_zip(path).policy_state
        for name, value in model.policy.state_dict().items():
            assert torch.equal(value, state[name]), name
        action, _ = model.predict(model.observation_space.sample(), deterministic=True)
        assert model.action_space.contains(int(action))


def test_what_is_planned_where_a_run_is_finished_or_another(uninterrupted, tmp_path):
    config = uninterrupted.read_config()
    assert plan_run(RunDirectory(tmp_path / "new"), config) == (False, config, 0)
    assert plan_run(uninterrupted, config) == (True, config, 600)
    other = config_of(config.run.algo, gamma=0.9, protocol="machado")
    assert refusal(plan_run, uninterrupted, other) == (
        f"{uninterrupted.path} holds a run of other settings (gamma, protocol); choose another "
        "--runs folder, or delete it."
    )
    assert refusal(plan_run, uninterrupted, config.with_total_agent_steps(500)) == (
        f"{uninterrupted.path} is a run of 600 agent steps, longer than the 500 asked for; ask "
        "for at least as many."
    )


@pytest.mark.parametrize(
    ("algo", "overrides", "falls"),
    [
        ("a2c", {"learning_rate_schedule": "constant"}, None),
        ("a2c", {"learning_rate_schedule": "linear"}, "learning rate"),
        ("dqn", {"exploration_initial_eps": 1}, "epsilon"),
        ("dqn", {}, None),
    ],
)
@pytest.mark.parametrize("state", ["finished", "interrupted"])
def test_a_run_whose_schedules_depend_on_its_length_is_not_made_longer(
    tmp_path, algo, overrides, falls, state
):
    config = config_of(algo, **overrides)
    longer = config.with_total_agent_steps(800)
    directory = RunDirectory(tmp_path)
    write_atomically(directory.config_path, config.to_json())
    directory.write_status(state, 400)
    directory.final_path.touch()
    if falls is None:
        assert plan_run(directory, longer) == (False, longer, 0)
        return
    assert refusal(plan_run, directory, longer) == (
        f"{tmp_path} is a run of 600 agent steps, over which its {falls} falls, and going on to "
        "800 would raise it again; choose another --runs folder for the longer run."
    )


def test_a_run_goes_on_with_as_many_threads_as_it_had(tmp_path):
    config = config_of("a2c", threads=3)
    directory = RunDirectory(tmp_path)
    write_atomically(directory.config_path, config.to_json())
    directory.write_status("interrupted", 400)
    for asked, threads in ((0, 3), (2, 2)):
        plan = plan_run(directory, config.with_execution(threads=asked))
        assert plan.config.execution.threads == threads


def test_a_finished_run_can_be_extended(uninterrupted, tmp_path):
    config = uninterrupted.read_config()
    directory = RunDirectory(tmp_path / config.name)
    shutil.copytree(uninterrupted.path, directory.path)
    earlier = read_games(directory)
    train(tmp_path, config.with_total_agent_steps(720))
    assert directory.read_status() == RunStatus(state="finished", agent_steps=720)
    assert read_games(directory)[: len(earlier)] == earlier
    steps = [step for step, _ in read_scalars(directory)["train/learning_rate"]]
    assert steps == sorted(set(steps))
    assert steps[-1] == 720


def test_an_extension_that_fails_at_its_start_is_not_finished(tmp_path):
    config = config_of("a2c", total_agent_steps=100)
    directory = train(tmp_path, config)
    longer = config.with_total_agent_steps(200)
    for damage, fault in (("damaged", "is not valid JSON"), ("{}", "not a list of starts")):
        directory.provenance_path.write_text(damage)
        with pytest.raises(ValueError, match=fault):
            train(tmp_path, longer)
        assert not plan_run(directory, longer).is_finished
        assert plan_run(directory, config).is_finished
        assert directory.provenance_path.read_text() == damage
    directory.provenance_path.unlink()
    train(tmp_path, longer)
    assert directory.read_status() == RunStatus(state="finished", agent_steps=200)


@pytest.mark.parametrize(
    ("steps", "fault"),
    [(200, "is a run of 100 agent steps, over which its"), (50, "is a run of 100 agent steps, lo")],
)
def test_a_run_that_has_lost_its_config_keeps_its_length(tmp_path, steps, fault):
    """As its checkpoint has it."""
    config = config_of("a2c", total_agent_steps=100, learning_rate_schedule="linear")
    directory = train(tmp_path, config)
    directory.config_path.unlink()
    line = refusal(train, tmp_path, config.with_total_agent_steps(steps))
    checkpoint = directory.list_checkpoints()[0]
    assert line.startswith(f"{checkpoint} {fault}")
    train(tmp_path, config)
    assert directory.read_config() == config


@pytest.mark.parametrize("algo", ["a2c", "dqn"])
def test_the_watchdog_rests_while_the_agent_learns(tmp_path, monkeypatch, algo):
    """However long that takes; the emulators are watched from their next step on."""
    told: list[str] = []
    watchdog = "agents.training.watchdog.Watchdog"
    monkeypatch.setattr(f"{watchdog}.feed", lambda _: told.append("feed"))
    monkeypatch.setattr(f"{watchdog}.rest", lambda _: told.append("rest"))
    learn = f"agents.algorithms.{algo}.{algo.upper()}.train"
    monkeypatch.setattr(learn, lambda *_, **__: told.append("train"))
    train(tmp_path, config_of(algo, total_agent_steps=120))
    places = [place for place, name in enumerate(told) if name == "train"]
    assert len(places) >= 5
    assert {told[place - 1] for place in places} == {"rest"}
    assert {told[place + 1] for place in places[:-1]} == {"feed"}


def test_a_best_agent_that_was_deleted_is_looked_for_anew(tmp_path, capsys, monkeypatch):
    change_protocols(monkeypatch, max_frames_per_game=100)
    evaluated = {"evaluate_every_agent_steps": 20, "evaluation_games": 1}
    config = config_of("a2c", total_agent_steps=20, **evaluated)
    directory = train(tmp_path, config)
    directory.best_path.unlink()
    train(tmp_path, config.with_total_agent_steps(40))
    assert f"{directory.best_path} is gone: the best agent is looked for anew." in (
        capsys.readouterr().out
    )
    assert directory.best_path.exists()


def test_other_threads_and_other_code_are_told(tmp_path, capsys, monkeypatch):
    config = config_of("a2c", total_agent_steps=200)
    ShortRun(tmp_path, config).stop_after(2)
    monkeypatch.setattr("agents.training.checkpoints.hash_source", lambda: "0123456789ab")
    changed = ShortRun(tmp_path, config.with_execution(threads=2))
    changed.stop_after(1)
    change = "from here on the weights are not those of a run without the change."
    assert (
        f"{config.name}: resumed at 20 agent steps.\n`threads` is 2, and was 1: {change}\n"
        f"the learning code is version 0123456789ab, and was {hash_source()}: {change}\n"
    ) in capsys.readouterr().out
    changed.stop_after(0)
    assert change not in capsys.readouterr().out


NAN = torch.full((2,), math.nan)


@pytest.mark.parametrize(
    "draw",
    [
        lambda: torch.multinomial(NAN, 1),
        lambda: torch.distributions.Categorical(logits=NAN),
        lambda: np.random.default_rng(0).choice(2, p=NAN.numpy()),  # as an evaluation does
    ],
)
def test_probabilities_that_are_not_finite_are_a_divergence(draw):
    def learn(*_, **__):
        draw()

    agent: Any = SimpleNamespace(policy=torch.nn.Linear(1, 1), num_timesteps=7, learn=learn)
    with pytest.raises(Divergence, match="an action's probability"):
        _learn(agent, 1, [], is_new=True)
