"""python -m agents.evaluation.export: an agent for others, and what is left out of it."""

import json
import zipfile

import pytest
import stable_baselines3
import torch

import evaluate
from agents.evaluation import export
from agents.models.model_file import read_model_zip
from tests.processes import ROOT
from tests.saved_agents import change_protocols
from tests.short_runs import short_config, train

TRAINED = ROOT / "trained"


@pytest.mark.parametrize("algo", ["a2c", "dqn"])
def test_a_shared_agent_acts_as_the_run_does(tmp_path, algo, capsys):
    directory = train(tmp_path, short_config(algo, coord_layers=[0], total_agent_steps=100))
    out = tmp_path / "shared.zip"
    assert export.main([str(directory.path), str(out)]) == 0
    assert capsys.readouterr().out.endswith(f"written: {out}, {out.stat().st_size / 1e6:.1f} MB\n")

    whole, shared = read_model_zip(directory.final_path), read_model_zip(out, ours=True)
    acting = {k: v for k, v in whole.policy_state.items() if not k.startswith("q_net_target.")}
    expected = acting | {
        name: acting[name.replace("q_net_target.", "q_net.")]
        for name in whole.policy_state.keys() - acting.keys()
    }
    assert shared.policy_state.keys() == expected.keys()
    assert all(torch.equal(shared.policy_state[name], v) for name, v in expected.items())
    assert shared.config == whole.config
    assert shared.optimizer_state is not None
    assert shared.optimizer_state["state"] == {}
    assert "_last_obs" not in zipfile.ZipFile(out).read("data").decode()
    share_of_size = {"a2c": 0.6, "dqn": 0.3}[algo]
    assert out.stat().st_size < share_of_size * directory.final_path.stat().st_size
    loaded = getattr(stable_baselines3, algo.upper()).load(out, device="cpu")
    state = loaded.policy.state_dict()
    assert all(torch.equal(state[name], value) for name, value in expected.items())


@pytest.mark.parametrize(
    ("out", "line"),
    [
        ("mine.zip", "{out} exists; choose another name."),
        ("no/out.zip", "there is no folder {out.parent}; make it first."),
        (
            "out.zip",
            "{run} is not a run's directory: it has no config.json; give one, such as "
            "runs/Pong/a2c-coordconv/seed0, or a model's .zip file.",
        ),
    ],
)
def test_what_cannot_be_shared(tmp_path, refuse, out, line):
    mine, run, out = tmp_path / "mine.zip", tmp_path / "nowhere", tmp_path / out
    mine.write_text("mine")
    answer = refuse(export.main, [str(run), str(out)])
    assert answer == f"error: {line.format(run=run, out=out)}"
    assert [path.read_text() for path in tmp_path.iterdir()] == ["mine"]


# Games to play, and what a player at random does not reach: it has 1.7 in Breakout, -20.7 in
# Pong, 163.9 in Qbert.
LEAST_RETURNS = {
    "Breakout-a2c-coordconv-seed0": (3, 15),
    "Pong-a2c-coordconv-seed0": (1, -18),
    "Pong-a2c-coordconv-zoo-seed0": (1, 0),
    "Pong-dqn-coordconv-seed0": (1, -10),
    "Qbert-a2c-coordconv-seed0": (3, 300),
}


def test_a_model_is_no_run(tmp_path, refuse):
    model = tmp_path / "theirs.zip"
    model.touch()
    assert refuse(export.main, [str(model), str(tmp_path / "out.zip")]) == (
        f"error: {model} is a file; give the directory of the run that it is of."
    )


@pytest.mark.parametrize("name", LEAST_RETURNS)
def test_the_agents_in_the_repository_play(tmp_path, monkeypatch, name):
    change_protocols(monkeypatch, max_frames_per_game=4_000)
    games, least = LEAST_RETURNS[name]
    path = TRAINED / f"{name}.zip"
    assert path.stat().st_size < 10e6
    assert evaluate.main([str(path), "--episodes", str(games), "--out", str(tmp_path)]) == 0
    assert json.loads((tmp_path / "returns.json").read_text())["mean_return"] > least


def test_every_agent_in_the_repository_is_played():
    assert {path.stem for path in TRAINED.glob("*.zip")} == set(LEAST_RETURNS)
