"""evaluate.py as users run it: what it writes and prints, and how it refuses."""

import json
import shlex
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import evaluate
from agents.evaluation.evaluate import _play
from agents.evaluation.games import PlayedGame
from configs.run_config import make_config
from envs.games import find_game
from tests.agents.evaluation.test_video import decode
from tests.refusals import transcript
from tests.saved_agents import change_protocols, save_foreign, save_run


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    return save_run(tmp_path_factory.mktemp("runs") / "run").path


@pytest.fixture(scope="module")
def dqn_model(tmp_path_factory) -> Path:
    return save_run(tmp_path_factory.mktemp("runs") / "dqn", "dqn").path / "final.zip"


def read_report(folder: Path):
    return json.loads((folder / "returns.json").read_text())


def test_a_run_is_scored_and_shown(run, capsys):
    evaluation = run / "evaluation"
    assert evaluate.main([str(run), "--episodes=3", "--video", "--gif", "--device=cpu"]) == 0
    files = ["game.gif", "game.mp4", "returns.json"]
    assert sorted(path.name for path in evaluation.iterdir()) == files
    report = read_report(evaluation)
    assert report["run"] == "Breakout/a2c-coordconv,n_envs=1/seed0"
    arm = "coordconv,n_envs=1"
    assert (report["game"], report["algo"], report["arm"]) == ("Breakout", "a2c", arm)
    assert (report["run_seed"], report["evaluation_seed"]) == (0, 0)
    assert (report["model"], report["trained_agent_steps"]) == ("final.zip", 1234)
    assert report["protocol"] == "baselines"
    assert (report["deterministic"], report["epsilon"]) == (False, None)
    assert len(report["returns"]) == len(set(report["game_seeds"])) == 3
    assert report["time_limit"] == [False] * 3
    assert report["mean_return"] == sum(report["returns"]) / 3
    assert report["human_normalised_score"] == pytest.approx(
        find_game("Breakout").human_normalised_score(report["mean_return"])
    )
    assert set(report["provenance"]["packages"]) >= {"torch", "ale-py", "stable-baselines3"}

    video = report["video"]
    assert video["file"] == "game.mp4"
    assert video["return"] == sorted(report["returns"])[1] == report["returns"][video["game"]]
    frames = decode(evaluation / "game.mp4", "gray", "scale=16:21").reshape(-1, 21, 16)
    assert len(frames) == video["length_frames"] == report["length_frames"][video["game"]]

    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "playing: Breakout/a2c-coordconv,n_envs=1/seed0"
    assert sum("played)" in line for line in lines) == 3
    assert lines[3].endswith("(3 of 3 played)")
    assert lines[-11:-7] == [
        "game                Breakout",
        "agent               a2c-coordconv,n_envs=1/seed0",
        "trained             1_234 agent steps",
        "games               3, 3 different",
    ]
    assert max(map(len, lines[:-3])) <= 80  # the last ones are paths
    assert [line for line in lines if line.startswith("written: ")] == lines[-3:]
    assert sorted(lines[-3:]) == [f"written: {evaluation / name}" for name in files]
    assert (report["different_games"], report["no_interval_because"]) == (3, None)
    assert report["interval_95"] is not None
    assert report["gif"] == video | {"file": "game.gif"}
    with Image.open(evaluation / "game.gif") as gif:
        assert gif.size == (320, 252)


def test_an_evaluation_takes_the_place_of_the_one_before(run, tmp_path, monkeypatch):
    change_protocols(monkeypatch, max_frames_per_game=100)
    out = tmp_path / "new" / "out"
    arguments = [str(run), "--episodes", "1", "--out", str(out), "--seed", "5", "--device", "cpu"]
    assert evaluate.main([*arguments, "--video"]) == 0
    first = read_report(out)
    assert first["video"]["game"] == 0
    assert evaluate.main(arguments) == 0
    assert [path.name for path in out.iterdir()] == ["returns.json"]  # no video of other games
    second = read_report(out)
    assert second["video"] is None
    assert second["returns"] == first["returns"]
    assert second["length_frames"] == first["length_frames"]
    assert (second["standard_deviation"], second["interval_95"]) == (None, None)
    assert second["evaluation_seed"] == 5


def test_what_is_no_evaluation_of_this_agent_is_not_replaced(run, tmp_path, refuse):
    arguments = [str(run), "--episodes", "1", "--out", str(tmp_path), "--device", "cpu"]
    video, returns = tmp_path / "game.mp4", tmp_path / "returns.json"
    video.write_text("mine")
    foreign = "is of no evaluation, and would be replaced; choose another --out folder."
    assert refuse(*arguments) == f"{video} {foreign}"
    returns.write_text("[1, 2]")
    assert refuse(*arguments) == f"{returns} {foreign}"
    theirs = '{"run": null, "model": "theirs.zip"}'
    returns.write_text(theirs)
    assert refuse(*arguments) == (
        f"{tmp_path} has the evaluation of theirs.zip; choose another --out folder."
    )
    assert (video.read_text(), returns.read_text()) == ("mine", theirs)


def test_a_picture_that_no_evaluation_made_is_not_removed(run, tmp_path, monkeypatch, refuse):
    change_protocols(monkeypatch, max_frames_per_game=40)
    arguments = [str(run), "--episodes", "1", "--out", str(tmp_path), "--device", "cpu"]
    assert evaluate.main([*arguments, "--gif"]) == 0
    mine = tmp_path / "game.mp4"
    mine.write_text("mine")
    assert refuse(*arguments) == (
        f"{mine} is of no evaluation, and would be replaced; choose another --out folder."
    )
    assert (mine.read_text(), (tmp_path / "game.gif").exists()) == ("mine", True)
    mine.unlink()
    assert evaluate.main(arguments) == 0
    assert not (tmp_path / "game.gif").exists()


def test_a_wrong_ffmpeg_is_told_before_anything_is_played(run, monkeypatch, refuse):
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", "/no/ffmpeg")
    monkeypatch.delattr("agents.evaluation.evaluate.play_games")
    assert refuse(str(run), "--video") == (
        "IMAGEIO_FFMPEG_EXE is /no/ffmpeg, which is no program; correct it."
    )


def test_a_runs_best_model_is_another_agent(run, tmp_path, monkeypatch, refuse):
    change_protocols(monkeypatch, max_frames_per_game=40)
    best, out = tmp_path / "best.zip", tmp_path / "out"
    shutil.copy(run / "final.zip", best)
    arguments = ["--episodes", "1", "--out", str(out), "--device", "cpu"]
    assert evaluate.main([str(run), *arguments]) == 0
    assert evaluate.main([str(run / "final.zip"), *arguments]) == 0
    name = "Breakout/a2c-coordconv,n_envs=1/seed0"
    line = f"{out} has the evaluation of {{}}; choose another --out folder."
    assert refuse(str(best), *arguments) == line.format(name)
    other = ["--episodes", "1", "--out", str(tmp_path / "best"), "--device", "cpu"]
    assert evaluate.main([str(best), *other]) == 0
    assert refuse(str(run), *other) == (
        f"{tmp_path / 'best'} has the evaluation of {name} (best.zip); choose another --out folder."
    )


@pytest.mark.parametrize(("flags", "epsilon"), [([], 0.25), (["--deterministic"], 0.0)])
def test_dqn_acts_at_random_as_at_the_end_of_its_training(dqn_model, monkeypatch, flags, epsilon):
    change_protocols(monkeypatch, max_frames_per_game=100)
    assert evaluate.main([str(dqn_model), "--episodes", "1", "--device", "cpu", *flags]) == 0
    report = read_report(dqn_model.with_name("final-evaluation"))
    assert (report["algo"], report["epsilon"]) == ("dqn", epsilon)
    assert report["deterministic"] is bool(flags)


def test_epsilon_0_is_no_chance_either(tmp_path, monkeypatch):
    change_protocols(monkeypatch, max_frames_per_game=40)
    model = save_run(tmp_path / "run", "dqn", exploration_final_eps=0).final_path
    assert evaluate.main([str(model), "--episodes", "2", "--device", "cpu"]) == 0
    report = read_report(model.with_name("final-evaluation"))
    assert (report["deterministic"], report["epsilon"]) == (False, 0)
    assert report["no_interval_because"] == "no chance but the no-ops"


@pytest.mark.parametrize(
    ("protocol", "reason"),
    [
        ("baselines", "no chance but the no-ops; leave out --deterministic"),
        ("machado", "all returns are equal"),
    ],
)
def test_games_without_chance_have_no_interval(tmp_path, capsys, monkeypatch, protocol, reason):
    """Where no-ops are all that differs, more games are the same few; sticky actions are chance.

    In Breakout nothing can be scored in 40 frames.
    """
    change_protocols(monkeypatch, max_frames_per_game=40, no_op_max=1)
    model = tmp_path / "theirs.zip"
    save_foreign(model, "A2C")
    flags = ["--game=Breakout", f"--protocol={protocol}", "--episodes=8", "--deterministic"]
    assert evaluate.main([str(model), *flags, "--device=cpu"]) == 0
    report = read_report(tmp_path / "theirs-evaluation")
    assert (report["run"], report["algo"], report["arm"]) == (None, None, None)
    assert (report["game"], report["protocol"]) == ("Breakout", protocol)
    assert (report["model"], report["trained_agent_steps"]) == ("theirs.zip", 77)
    assert report["interval_95"] is None
    assert report["standard_deviation"] == 0
    assert report["no_interval_because"] == reason
    out = capsys.readouterr().out
    assert f"\n95 % interval       - ({reason})\n" in out
    if protocol == "baselines":
        assert report["different_games"] == 2
        assert "\ngames               8, 2 different\n" in out


def test_sticky_actions_are_chance_enough_for_an_interval(tmp_path, monkeypatch):
    def play_with_scores(*arguments: Any) -> list[PlayedGame]:
        return [replace(game, raw_return=n) for n, game in enumerate(_play(*arguments))]

    monkeypatch.setattr("agents.evaluation.evaluate._play", play_with_scores)
    change_protocols(monkeypatch, max_frames_per_game=40)
    save_foreign(tmp_path / "theirs.v1.zip", "A2C")
    flags = ["--game=Breakout", "--protocol=machado", "--episodes=3", "--deterministic"]
    assert evaluate.main([f"{tmp_path}/theirs.v1", *flags, "--device=cpu"]) == 0
    report = read_report(tmp_path / "theirs.v1-evaluation")
    assert report["returns"] == [0, 1, 2]
    assert report["no_interval_because"] is None
    assert report["interval_95"] is not None


def test_an_agent_that_is_stuck_is_heard_of(run, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("agents.evaluation.evaluate.QUIET_SECONDS", 0)
    monkeypatch.setattr("agents.evaluation.evaluate.QUIET_SECONDS_ON_A_TERMINAL", 0)
    change_protocols(monkeypatch, max_frames_per_game=100)
    flags = ["--episodes=1", "--device=cpu", f"--out={tmp_path}"]
    assert evaluate.main([str(run), *flags]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1:24] == [  # two presses come before the agent's first action; 25 are the limit
        f"a game is at {4 * actions} of at most 100 frames (0 of 1 played)"
        for actions in range(2, 25)
    ]
    assert lines[24].startswith("game 0: return 0 in ")


# --- refusals -------------------------------------------------------------------------------------


@pytest.fixture
def refuse(refuse):
    """What evaluate.py answers that it refuses."""

    def line(*arguments):
        start, _, message = refuse(evaluate.main, list(map(str, arguments))).partition(": ")
        assert start == "error"
        return message

    return line


COUNT = "`episodes` must be a whole number at least 1 and at most 1_000_000"
WRONG = f"""
--episodes 0
    --episodes: {COUNT}, got 0.
--episodes ten
    --episodes: {COUNT}, got 'ten'.
--seed -1
    --seed: `seed` must be a whole number at least 0 and at most 2_147_483_647, got -1.
--device tpu
    `device` must be auto, cpu, cuda or cuda:N, got 'tpu'.
--device cuda:01
    `device` must be auto, cpu, cuda or cuda:N, got 'cuda:01'.
--game Pong
    RUN knows what it was trained on; leave out --game Pong.
--protocol machado
    RUN knows what it was trained on; leave out --protocol machado.
--out ''
    --out must name a folder, got ''.
--out RUN/config.json
    cannot write to RUN/config.json (File exists); choose another folder with --out.
--out RUN/config.json/x
    cannot write to RUN/config.json/x (Not a directory); choose another folder with --out.
"""


@pytest.mark.parametrize(("flags", "message"), transcript(WRONG))
def test_what_is_wrong_with_a_run_is_one_line(tmp_path, refuse, flags, message):
    run = save_run(tmp_path / "run").path
    before = sorted(run.rglob("*"))
    flags, message = (text.replace("RUN", str(run)) for text in (flags, message))
    assert refuse(run, *shlex.split(flags)) == message
    assert sorted(run.rglob("*")) == before


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "{model} does not say its game; add --game, such as --game Pong."),
        (
            ["--game", "Pongg"],
            "Unknown game 'Pongg'. Did you mean Pong? `train.py --list-games` lists them.",
        ),
    ],
)
def test_what_is_wrong_with_somebody_elses_model_is_one_line(tmp_path, refuse, flags, message):
    model = tmp_path / "theirs.zip"
    save_foreign(model, "A2C")
    assert refuse(model, *flags) == message.format(model=model)
    assert list(tmp_path.iterdir()) == [model]


def test_a_path_without_an_agent_is_one_line(tmp_path, refuse):
    assert refuse("") == "RUN_DIR|MODEL.zip must name a run or a model, got ''."
    long = tmp_path / ("x" * 300)
    assert refuse(long) == f"{long}: File name too long"
    missing = tmp_path / "missing.zip"
    assert refuse(missing) == f"{missing} does not exist; check the path."
    assert refuse(tmp_path) == (
        f"{tmp_path} is not a run's directory: it has no config.json; give one, such as "
        "runs/Pong/a2c-coordconv/seed0, or a model's .zip file."
    )
    (tmp_path / "config.json").write_text(make_config("Pong", "a2c", {}).to_json())
    assert refuse(tmp_path) == (
        f"{tmp_path} has no model yet; train it up to its first checkpoint."
    )


def test_a_damaged_final_model_is_one_line(tmp_path, refuse):
    path = save_run(tmp_path / "run").path / "final.zip"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    assert refuse(path.parent) == (
        f"{path} is damaged (its checksum is missing or wrong); use an earlier file."
    )
    assert refuse(path) == (f"{path} is damaged (its checksum is wrong); use an earlier file.")


def test_a_dqn_that_does_not_say_its_epsilon_needs_to_be_deterministic(tmp_path, refuse):
    model = tmp_path / "theirs.zip"
    saved = save_foreign(model, "DQN")
    del saved.exploration_final_eps
    saved.save(model)
    assert refuse(model, "--game", "Breakout", "--episodes", "1", "--device", "cpu") == (
        "theirs.zip does not say its exploration_final_eps; add --deterministic."
    )


def test_a_stopped_evaluation_leaves_nothing(tmp_path, capsys, monkeypatch):
    def stop(*arguments):
        raise KeyboardInterrupt
        yield

    monkeypatch.setattr("agents.evaluation.evaluate.play_games", stop)
    run = save_run(tmp_path / "run").path
    with pytest.raises(SystemExit) as stopped:
        evaluate.main([str(run)])
    assert stopped.value.code == 130
    assert capsys.readouterr().err == "stopped.\n"
    assert not (run / "evaluation").exists()


def test_returns_outlive_a_video_that_cannot_be_written(tmp_path, capsys, monkeypatch):
    change_protocols(monkeypatch, max_frames_per_game=100)
    ffmpeg = tmp_path / "ffmpeg"
    ffmpeg.write_text("#!/bin/sh\necho broken >&2\nexit 1\n")
    ffmpeg.chmod(0o755)
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", str(ffmpeg))
    run = save_run(tmp_path / "run").path
    with pytest.raises(SystemExit, match="2"):
        evaluate.main([str(run), "--episodes", "1", "--video", "--device", "cpu"])
    path = run / "evaluation" / "game.mp4"
    assert capsys.readouterr().err == (
        f"error: {path} cannot be encoded (broken); evaluate without --video.\n"
    )
    assert [left.name for left in path.parent.iterdir()] == ["returns.json"]
    assert read_report(path.parent)["video"] is None
