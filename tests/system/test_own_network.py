"""A network of a user's own, from training to evaluation: exact, refused when changed, never run
because a file names it."""

import json
import sys

import pytest
import torch

import evaluate
import train
from agents.evaluation.agent import load_agent
from agents.models.own_extractor import load_extractor
from benchmarks.soak import compare_runs
from configs.run_config import RunConfig, parse_own_arm
from tests.own_networks import NETS, forget, line_of
from tests.processes import ROOT
from tests.saved_agents import change_protocols
from tests.short_runs import ShortRun, command_line, short_config
from tests.short_runs import train as train_run


def own_config(algo: str, text: str = "mynets:Small", **overrides: int) -> RunConfig:
    return short_config(algo, **overrides).replace(network=load_extractor(parse_own_arm(text)))


@pytest.mark.parametrize(("algo", "updates"), [("a2c", 11), ("dqn", 47)])
def test_a_run_that_was_stopped_ends_as_one_that_was_not(nets, algo, updates):
    whole, stopped = (
        ShortRun(nets / name, own_config(algo, "mynets:Draws")) for name in ("whole", "stopped")
    )
    stopped.stop_after(updates)
    assert compare_runs(whole.train(), stopped.train()) == []
    config = own_config(algo, "mynets:Draws", evaluate_every_agent_steps=100, evaluation_games=1)
    evaluated = train_run(nets / "evaluated", config)
    assert compare_runs(whole.directory, evaluated) == ["TensorBoard scalars"]
    start, *_ = json.loads(whole.directory.provenance_path.read_text())["starts"]
    assert start["network_cost"] == {"parameters": 8 + 197 * 8, "multiply_adds": 196 * 8}


def test_a_run_is_evaluated_only_where_its_network_is_named(nets, monkeypatch, capsys, refuse):
    change_protocols(monkeypatch, max_frames_per_game=100)
    run = ShortRun(nets / "runs", own_config("a2c"))
    run.train()
    forget(monkeypatch)

    play = [str(run.directory.path), "--episodes=1", "--device=cpu"]
    name = ["--extractor", "mynets:Small"]
    assert refuse(evaluate.main, play) == (
        "error: the network is mynets:Small, code that is run only if you name it: add "
        "--extractor mynets:Small."
    )
    assert refuse(evaluate.main, [*play, "--extractor=os:path"]) == (
        f"error: {run.directory.path} is of mynets:Small, not of os:path; give --extractor "
        "mynets:Small."
    )
    assert "mynets" not in sys.modules
    assert evaluate.main([*play, *name]) == 0
    report = json.loads((run.directory.evaluation_path / "returns.json").read_text())
    assert (report["arm"], len(report["returns"])) == (run.config.arm, 1)

    (nets / "mynets.py").write_text(NETS.replace("AvgPool2d", "MaxPool2d"))
    forget(monkeypatch)
    assert run.command(capsys, *name) == (
        2,
        f"error: {run.directory.path} holds a run of other settings (extractor_source); choose "
        "another --runs folder, or delete it.\n",
    )
    assert refuse(evaluate.main, [*play, *name]).startswith("error: mynets:Small was changed: ")
    (nets / "mynets.py").write_text(NETS)
    forget(monkeypatch)
    assert train.main([*command_line(run.config, run.runs), *name]) == 0
    command = f"python evaluate.py {run.directory.path} --video {' '.join(name)}"
    assert capsys.readouterr().out.endswith(f"evaluate     {command}\n")


@pytest.mark.parametrize("algo", ["a2c", "dqn"])
def test_a_network_made_from_this_projects_own_may_have_other_layers(nets, algo):
    directory = train_run(nets, own_config(algo, "mynets:Normalised", total_agent_steps=60))
    status = directory.read_status()
    assert status is not None
    assert status.state == "finished"


def test_a_network_that_fails_while_it_learns_is_told_in_one_line(nets, capsys):
    run = ShortRun(nets / "runs", own_config("a2c", "mynets:FailsLater"))
    status, line = run.command(capsys, "--extractor=mynets:FailsLater")
    place = f"(mynets.py, line {line_of('ZeroDivisionError')})"
    fault = f"mynets:FailsLater failed: ZeroDivisionError: later {place}"
    assert (status, line) == (2, f"error: {fault}\n")
    saved = run.directory.read_status()
    assert saved is not None
    assert (saved.state, saved.message) == ("failed", fault)


def test_a_network_that_fails_in_its_backward_pass_is_told_in_one_line(nets, capsys):
    run = ShortRun(nets / "runs", own_config("a2c", "mynets:FailsBackward"))
    status, line = run.command(capsys, "--extractor=mynets:FailsBackward")
    assert status == 2
    assert line.startswith("error: mynets:FailsBackward failed: RuntimeError: one of the variables")


def test_a_network_with_a_mask_goes_on_and_is_evaluated(nets):
    for steps in (20, 40):
        config = own_config("a2c", "mynets:Masks", total_agent_steps=steps)
        directory = train_run(nets / "runs", config)
    agent = load_agent(directory.path, None, None, torch.device("cpu"), "mynets:Masks")
    assert agent.trained_agent_steps == 40


def test_a_network_that_diverges_is_told_as_such(nets, capsys):
    run = ShortRun(nets / "runs", own_config("a2c", "mynets:Diverges"))
    status, line = run.command(capsys, "--extractor=mynets:Diverges")
    assert status == 1
    assert line == (
        f"{run.config.name}: diverged at 10 agent steps: an action's probability is nan; try a "
        "smaller learning_rate.\n"
    )


def test_models_of_this_projects_own_networks_take_no_extractor(nets, refuse):
    model = ROOT / "trained" / "Breakout-a2c-coordconv-seed0.zip"
    line = refuse(evaluate.main, [str(model), "--extractor=mynets:Small"])
    assert line == f"error: {model} is not of mynets:Small; leave out --extractor."
    assert "mynets" not in sys.modules


def test_a_plan_with_a_users_network_runs_none_of_it(nets, refuse, monkeypatch, capsys):
    plan = ["--compare", "--games=Pong", "--seeds=1", f"--runs={nets / 'runs'}", "--jobs=1"]
    arms = ["--arms", "cnn", "mynets:Small,features_dim=4"]
    assert train.main([*plan, *arms, "--declare"]) == 0
    assert "arms       cnn Small,features_dim=4; cnn is the baseline" in capsys.readouterr().out
    forget(monkeypatch)
    assert refuse(train.main, [*plan, "--dry-run"]) == (
        "error: comparison.json has networks that are code (mynets:Small), which is run only if "
        "you name it: give its --arms again."
    )
    assert "mynets" not in sys.modules
    assert train.main([*plan, *arms, "--dry-run"]) == 0
