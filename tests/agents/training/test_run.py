"""Whole runs on real games: what they leave behind, and that stopping changes nothing of it."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import stable_baselines3
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from agents.models.model_file import read_model_zip
from agents.training.checkpoints import newest_good_checkpoint
from agents.training.run import plan_run, train_run
from configs.run_config import RunConfig, make_config
from runtime.files import write_atomically
from runtime.run_directory import RunDirectory, RunStatus
from runtime.stop_request import StopRequest, TrainingStopped

WALL_CLOCK_TAGS = {"time/fps"}


class StopAt(StopRequest):
    """Asks a run to stop the first time it is asked after a number of updates."""

    def __init__(self, updates: float = float("inf")):
        super().__init__()
        self._left = updates

    def __bool__(self) -> bool:
        self._left -= 1
        return self._left < 0


def config_of(algo: str, **overrides) -> RunConfig:
    common = {
        "total_agent_steps": 600,
        "n_envs": 2,
        "threads": 1,
        "device": "cpu",
        "log_every_agent_steps": 50,
        "checkpoint_every_agent_steps": 100,
        "coord_layers": [0],
    }
    if algo == "dqn":
        common |= {
            "buffer_size": 150,  # wraps around
            "learning_starts": 80,
            "batch_size": 4,
            "exploration_fraction": 0.6,
            "target_update_interval": 40,
            "threads": 2,  # target values are computed ahead
        }
    return make_config("Breakout", algo, common | overrides)


def train(runs: Path, config: RunConfig, stop=None) -> RunDirectory:
    directory = RunDirectory(runs / config.name)
    train_run(directory, plan_run(directory, config).config, StopAt() if stop is None else stop)
    return directory


def train_with_stops(runs: Path, config: RunConfig, updates_before_each: list[int]) -> RunDirectory:
    for updates in updates_before_each:
        with pytest.raises(TrainingStopped):
            train(runs, config, StopAt(updates))
    return train(runs, config)


def read_episodes(directory: RunDirectory) -> list[dict[str, str]]:
    """All columns but the wall-clock time."""
    with directory.episodes_path.open() as file:
        rows = list(csv.DictReader(file))
    assert all(float(row.pop("seconds")) > 0 for row in rows)
    return rows


def read_scalars(directory: RunDirectory) -> dict[str, list[tuple[int, float]]]:
    """Steps and values of every tag but those that measure wall-clock time."""
    events = EventAccumulator(str(directory.path))
    events.Reload()
    return {
        tag: [(event.step, event.value) for event in events.Scalars(tag)]
        for tag in events.Tags()["scalars"]
        if tag not in WALL_CLOCK_TAGS
    }


def flatten(value: Any, prefix: str = "") -> dict[str, Any]:
    """The leaves of nested dicts and lists, by path."""
    if not isinstance(value, dict | list):
        return {prefix: value}
    items = value.items() if isinstance(value, dict) else enumerate(value)
    return {k: v for key, part in items for k, v in flatten(part, f"{prefix}/{key}").items()}


def assert_same_run(one: RunDirectory, other: RunDirectory) -> None:
    first, second = (read_model_zip(directory.final_path, ours=True) for directory in (one, other))
    for part in ("policy_state", "optimizer_state"):
        expected, actual = flatten(getattr(first, part)), flatten(getattr(second, part))
        assert expected.keys() == actual.keys()
        for name, value in expected.items():
            same = (
                torch.equal(value, actual[name])
                if torch.is_tensor(value)
                else value == actual[name]
            )
            assert same, f"{part} {name}"
    assert read_episodes(one) == read_episodes(other)
    # As text, which is exact, because NaN does not equal itself.
    assert str(read_scalars(one)) == str(read_scalars(other))


@pytest.fixture(scope="module", params=["a2c", "dqn"])
def uninterrupted(request, tmp_path_factory) -> RunDirectory:
    return train(tmp_path_factory.mktemp("uninterrupted"), config_of(request.param))


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
    episodes = read_episodes(uninterrupted)
    assert len(episodes) >= 2
    assert all(0 < int(row["agent_steps"]) <= 600 for row in episodes)
    assert all(int(row["length_frames"]) > int(row["length_agent_steps"]) for row in episodes)


def test_tensorboard_has_sb3s_tags_and_the_games(uninterrupted):
    scalars = read_scalars(uninterrupted)
    algo = uninterrupted.read_config().run.algo
    expected = {
        "rollout/ep_rew_mean",
        "rollout/ep_len_mean",
        "return/Breakout",
        "length_frames/Breakout",
        "coordinates/weight_share_layer0",
        "train/learning_rate",
        "train/loss" if algo == "dqn" else "train/policy_loss",
    }
    assert expected <= scalars.keys()
    if algo == "dqn":
        assert "rollout/exploration_rate" in scalars
    steps = [step for step, _ in scalars["train/learning_rate"]]
    assert steps == sorted(set(steps))
    assert steps[-1] == 600
    # The mean of the last 100 games, whichever they were.
    returns = [float(row["return"]) for row in read_episodes(uninterrupted)]
    assert scalars["return/Breakout"][-1][1] == pytest.approx(sum(returns) / len(returns))


def test_stopping_changes_nothing(uninterrupted, tmp_path):
    config = uninterrupted.read_config()
    stopped = train_with_stops(tmp_path, config, [13, 1, 29])
    assert_same_run(uninterrupted, stopped)


def test_going_back_to_an_older_checkpoint_changes_nothing(uninterrupted, tmp_path):
    """As after a kill: logs and replay buffer are ahead of the checkpoint."""
    config = uninterrupted.read_config()
    with pytest.raises(TrainingStopped):
        train(tmp_path, config, StopAt(45))
    directory = RunDirectory(tmp_path / config.name)
    newest = sorted(directory.checkpoints_path.iterdir())[-1]
    newest.unlink()
    assert_same_run(uninterrupted, train(tmp_path, config))


def test_a_damaged_newest_checkpoint_is_reported_and_passed_over(uninterrupted, tmp_path, capsys):
    config = uninterrupted.read_config()
    with pytest.raises(TrainingStopped):
        train(tmp_path, config, StopAt(45))
    directory = RunDirectory(tmp_path / config.name)
    newest = sorted(directory.checkpoints_path.iterdir())[-1]
    content = bytearray(newest.read_bytes())
    content[len(content) // 2] ^= 1
    newest.write_bytes(content)
    assert_same_run(uninterrupted, train(tmp_path, config))
    assert f"{newest}" in capsys.readouterr().out


def test_the_same_seed_gives_the_same_run(uninterrupted, tmp_path):
    config = uninterrupted.read_config()
    assert_same_run(uninterrupted, train(tmp_path, config))


def test_another_seed_gives_another_run(uninterrupted, tmp_path):
    config = config_of(uninterrupted.read_config().run.algo, seed=1)
    other = train(tmp_path, config)
    assert read_episodes(other) != read_episodes(uninterrupted)


def test_plain_sb3_opens_checkpoints_and_the_final_model(uninterrupted):
    algo = uninterrupted.read_config().run.algo
    algorithm: Any = {"a2c": stable_baselines3.A2C, "dqn": stable_baselines3.DQN}[algo]
    checkpoint, complaints = newest_good_checkpoint(uninterrupted)
    assert checkpoint is not None
    assert complaints == []
    for path in (uninterrupted.final_path, checkpoint.path):
        model = algorithm.load(path, device="cpu", custom_objects={"buffer_size": 10})
        state = read_model_zip(path).policy_state
        for name, value in model.policy.state_dict().items():
            assert torch.equal(value, state[name]), name
        action, _ = model.predict(model.observation_space.sample(), deterministic=True)
        assert model.action_space.contains(int(action))


def test_plan(uninterrupted, tmp_path):
    config = uninterrupted.read_config()
    assert plan_run(RunDirectory(tmp_path / "new"), config) == ("start", config, 0)
    assert plan_run(uninterrupted, config) == ("finished", config, 600)
    with pytest.raises(ValueError, match="holds a run of other settings") as error:
        plan_run(uninterrupted, config_of(config.run.algo, gamma=0.9, protocol="machado"))
    assert str(error.value) == (
        f"{uninterrupted.path} holds a run of other settings (gamma, protocol); choose another "
        "--runs folder, or delete it."
    )
    with pytest.raises(ValueError, match="longer than") as error:
        plan_run(uninterrupted, config.with_total_agent_steps(500))
    assert str(error.value) == (
        f"{uninterrupted.path} is a run of 600 agent steps, longer than the 500 asked for; ask "
        "for at least as many."
    )


@pytest.mark.parametrize(
    ("algo", "overrides", "falls"),
    [
        ("a2c", {"learning_rate_schedule": "constant"}, None),
        ("a2c", {"learning_rate_schedule": "linear"}, "learning rate"),
        ("dqn", {}, "epsilon"),
        ("dqn", {"exploration_initial_eps": 0.1, "exploration_final_eps": 0.1}, None),
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
        action = "extend" if state == "finished" else "resume"
        assert plan_run(directory, longer) == (action, longer, 400)
        return
    with pytest.raises(ValueError, match=f"over which its {falls} falls") as error:
        plan_run(directory, longer)
    assert str(error.value) == (
        f"{tmp_path} is a run of 600 agent steps, over which its {falls} falls, and going on to "
        "800 would raise it again; choose another --runs folder for the longer run."
    )


@pytest.mark.parametrize("algo", ["a2c", "dqn"])
def test_a_finished_run_can_be_extended(tmp_path, algo):
    constant = {"exploration_initial_eps": 0.1, "exploration_final_eps": 0.1}
    config = config_of(
        algo, learning_rate_schedule="constant", **(constant if algo == "dqn" else {})
    )
    directory = train(tmp_path, config)
    earlier = read_episodes(directory)
    train(tmp_path, config.with_total_agent_steps(720))
    assert directory.read_status() == RunStatus(state="finished", agent_steps=720)
    assert read_episodes(directory)[: len(earlier)] == earlier
    steps = [step for step, _ in read_scalars(directory)["train/learning_rate"]]
    assert steps == sorted(set(steps))
    assert steps[-1] == 720


def test_other_threads_are_told(tmp_path, capsys):
    config = config_of("a2c", total_agent_steps=200)
    with pytest.raises(TrainingStopped):
        train(tmp_path, config, StopAt(11))
    asked = config.with_execution(threads=2)
    train(tmp_path, asked)
    assert (
        f"{config.name}: resumed at 110 agent steps. `threads` is 2, and was 1: from here on the "
        "weights are not, to the last bit, those of a run without the change.\n"
    ) in capsys.readouterr().out
