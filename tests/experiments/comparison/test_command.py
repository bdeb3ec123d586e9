"""The comparison command, from its options to its report, with real workers and on Ray."""

import importlib.util
import json
import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from experiments.comparison.execution.pool import LOG_NAME, Failure, LocalWorker
from experiments.comparison.plan import load_plan, save_plan
from runtime.run_directory import RunDirectory, RunStatus
from tests.processes import start, wait_for
from tests.synthetic_runs import plan_of, write_run
from train import main

TINY = "--compare --games=Breakout --seeds=1 --jobs=2 --n-envs=2"
TINY += " --set=log_every_agent_steps=20 --set=checkpoint_every_agent_steps=20"
TINY += " --set=learning_rate_schedule=constant"  # runs that can be made longer


@pytest.fixture
def executed(monkeypatch) -> dict[str, Any]:
    """What `execute` was asked; one run fails, and there is a fault in the report."""
    asked: dict[str, Any] = {"failures": [Failure("Pong/a2c-cnn/seed0", Path("a.log"), "killed")]}

    def pretend(*_: object, **how: Any) -> list[Failure]:
        asked.update(how)
        failures: list[Failure] = asked["failures"]
        return failures

    def refuse(_: Path) -> None:
        raise ValueError("final.zip is damaged")

    monkeypatch.setattr("experiments.comparison.command.check_needs", lambda *_: None)
    monkeypatch.setattr("experiments.comparison.command.execute", pretend)
    monkeypatch.setattr("experiments.comparison.command.write_report", refuse)
    return asked


def unwrap(plan: str) -> str:
    return plan.replace("\n" + 11 * " ", " ")


def test_a_fault_in_the_report_hides_no_failed_run(tmp_path, capsys, refuse, executed):
    assert main(["--compare", "--jobs=1", f"--runs={tmp_path}"]) == 1
    assert capsys.readouterr().err.splitlines() == [
        "failed: Pong/a2c-cnn/seed0: killed; see a.log",
        "error: final.zip is damaged",
    ]
    executed["failures"] = []
    refuse(main, ["--compare", "--jobs=1", f"--runs={tmp_path}"])


@pytest.mark.parametrize(
    ("limit", "jobs", "threads"), [("3", 2, 3), ("3", 8, 2), ("", 1, 4), ("", 16, 1)]
)
def test_a_run_gets_no_more_threads_than_one_alone(
    tmp_path, monkeypatch, executed, limit, jobs, threads
):
    monkeypatch.setenv("OMP_NUM_THREADS", limit)
    for module in ("runtime.process_settings", "experiments.comparison.command"):
        monkeypatch.setattr(f"{module}.count_cores", lambda: 16)
    monkeypatch.setattr("os.getloadavg", lambda: (0.0, 0.0, 0.0))
    assert main(["--compare", f"--jobs={jobs}", f"--runs={tmp_path}"]) == 1
    assert executed["threads"] == threads


@pytest.mark.parametrize(
    ("precision", "time"),  # 1.8e8 agent steps / (2 * rate)
    [("fp32", "21 h 44 min at 1150"), ("bf16", "17 h 51 min at 1400")],
)
def test_the_dry_run_says_what_it_would_take_and_writes_nothing(tmp_path, capsys, precision, time):
    options = ["--jobs", "2", "--precision", precision, "--runs", str(tmp_path / "runs")]
    assert main(["--compare", "--dry-run", *options]) == 0
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) < 80
    lines = dict(line.split(maxsplit=1) for line in unwrap(out).splitlines())
    assert lines["seeds"] == "0 1 2 3 4"
    assert lines["runs"] == "90, of which 0 have ended; 2 at a time"
    assert lines["steps"] == "180_000_000 agent steps, 0 of them done"
    assert lines["time"].startswith(f"{time} agent steps/s a job (configs/")
    assert lines["memory"].startswith("1.3 GB")  # a process 0.6 GB, 80 samples of 0.5 MB
    # scipy.stats.nct: sf(t.ppf(1 - 0.04 / 9 / 2, 4), 4, 3.25 * sqrt(5)) = 0.80
    assert lines["verdicts"] == (
        "with 80% probability a game is told better or worse if the arms differ by 5% of the "
        "baseline's gain (the margin) plus 3.25 standard deviations of the paired differences"
    )
    assert not (tmp_path / "runs").exists()


def test_the_estimate_uses_measured_rates(tmp_path, capsys):
    plan = plan_of("Breakout", seeds=1)
    directory = write_run(tmp_path, plan.runs()[0], [1.0] * 4)  # 10 agent steps a second
    directory.final_path.touch()
    options = ["--compare", "--dry-run", "--games=Breakout", "--seeds=1", "--steps=1000"]
    assert main([*options, "--runs", str(tmp_path)]) == 0
    out = unwrap(capsys.readouterr().out)
    assert f"1 min 40 s at 10 agent steps/s a job (median of 1 run below {tmp_path})" in out
    assert "2 of which" not in out
    assert "2, of which 1 have ended; 1 at a time" in out
    assert "none possible with fewer than 3 seeds" in out
    assert main([*options, "--arms=cnn", "--runs", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "\narms       cnn; nothing to compare it with\n" in out
    assert "\nverdicts   none, of a single arm\n" in out


def test_the_estimate_counts_what_is_saved(tmp_path, capsys):
    """A game that ended after the newest checkpoint will be played again."""
    directory = write_run(tmp_path, plan_of("Breakout", seeds=1).runs()[0], [1.0], state="running")
    directory.checkpoints_path.mkdir()
    (directory.checkpoints_path / "000000000400.zip").touch()
    options = ["--compare", "--dry-run", "--games=Breakout", "--seeds=1", "--steps=1000"]
    assert main([*options, "--runs", str(tmp_path)]) == 0
    assert "2_000 agent steps, 400 of them done" in capsys.readouterr().out


def test_a_declared_plan_is_carried_out_without_saying_it_again(tmp_path, capsys, refuse):
    runs = tmp_path / "new" / "runs"
    options = ["--compare", f"--runs={runs}"]
    declared = ["--games=Pong", "--seeds=3", "--steps=100", "--set=power=0.9", "--set=gamma=0.9"]
    assert main([*options, *declared, "--declare"]) == 0
    assert {path.name for path in runs.iterdir()} == {".lock", "comparison.json"}
    said = capsys.readouterr().out.splitlines()[:7]
    assert said[-1].startswith("time ")
    for more in (
        [],
        declared,
        ["--algo=a2c", "--games=pong"],
        ["--set=checkpoint_every_agent_steps=7"],
    ):
        assert main([*options, *more, "--dry-run"]) == 0
        assert capsys.readouterr().out.splitlines()[:7] == said
    for other, name in (
        ("--games=Qbert", "games"),
        ("--set=power=0.8", "power"),
        ("--set=gamma=0.8", "gamma"),
    ):
        line = refuse(main, [*options, other, "--dry-run"])
        assert f"is a plan of other settings ({name}); " in line
    before = (runs / "comparison.json").read_bytes()
    with RunDirectory(runs).lock():  # as a comparison that is being carried out has it
        line = refuse(main, [*options, *declared, "--seeds=4", "--declare"])
        assert f"{runs} is being written by another process; " in line
    assert (runs / "comparison.json").read_bytes() == before


def test_places_that_cannot_be_made_are_refused_before_any_training(tmp_path, refuse):
    (tmp_path / "Pong").write_text("")
    options = ["--compare", f"--runs={tmp_path}", "--games", "Breakout", "Pong"]
    assert refuse(main, options) == (
        f"error: cannot write to {tmp_path}/Pong/a2c-coordconv/seed0 (Not a directory); choose "
        "another --runs folder."
    )
    assert [path.name for path in tmp_path.iterdir()] == ["Pong"]


@pytest.mark.usefixtures("no_figures")
def test_adding_seeds_to_a_complete_game_is_noted_in_the_plan(tmp_path, capsys, refuse):
    plan = plan_of("Breakout", learning_rate_schedule="constant")
    save_plan(plan.replace(seeds=(0,)), tmp_path)
    for config in plan.runs():
        write_run(tmp_path, config, [1.0]).final_path.touch()
    options = ["--compare", "--games=Breakout", "--steps=1000", f"--runs={tmp_path}"]
    assert main([*options, "--seeds=2"]) == 0
    saved = load_plan(tmp_path)
    assert saved is not None
    assert (saved.seeds, saved.looks) == ((0, 1), (1,))
    assert "4 have ended, 0 to train" in capsys.readouterr().out
    assert "look 2" in (tmp_path / "report.md").read_text()
    assert main([*options, "--seeds=2", "--dry-run"]) == 0
    assert capsys.readouterr().out.endswith("\norder      all have ended\n")
    assert main([*options, "--seeds=3", "--dry-run"]) == 0
    left = [config.name for config in plan.replace(seeds=(0, 1, 2)).runs()[4:]]
    assert capsys.readouterr().out.endswith(f"\norder      {left[0]}\n{11 * ' '}{left[1]}\n")
    line = refuse(main, [*options, "--seeds=1"])
    assert "is a plan of 2 seeds, more than the 1 asked for" in line
    assert main([*options, "--steps=1001", "--dry-run"]) == 0
    assert "\nruns       4, of which 0 have ended; " in capsys.readouterr().out


# --- real workers ---------------------------------------------------------------------------------


def compare(runs: Path, steps: int, *more: str) -> "subprocess.Popen[str]":
    return start("train.py", *TINY.split(), f"--steps={steps}", f"--runs={runs}", *more)


def find_workers(runs: Path) -> list[int]:
    """The processes that train below a folder."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().split(b"\0")
        except OSError:
            continue
        if b"experiments.comparison.execution.worker" in words and str(runs).encode() in words:
            found.append(int(path.parent.name))
    return found


def status_of(directory: RunDirectory) -> RunStatus:
    status = directory.read_status()
    assert status is not None
    return status


def has_checkpoints(runs: Path, count: int) -> bool:
    return len({path.parent for path in runs.glob("*/*/*/checkpoints/*.zip")}) >= count


def test_pythons_path_means_the_same_to_a_worker(tmp_path, monkeypatch):
    """A worker's own folder is the project's."""
    monkeypatch.setattr("agents.models.own_extractor._loaded", {})
    monkeypatch.setitem(sys.modules, "nets_elsewhere", None)  # so that it is forgotten
    monkeypatch.delitem(sys.modules, "nets_elsewhere")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "lib").mkdir()
    Path("lib/nets_elsewhere.py").write_text(
        "from policies.extractors import NatureCoordCNN as Own\n"
    )
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(["lib", "/elsewhere"]))
    monkeypatch.syspath_prepend("lib")
    plan = plan_of("Pong", seeds=1, arms="nets_elsewhere:Own", total_agent_steps=20, n_envs=2)
    (config,) = plan.runs()
    worker = LocalWorker(config, tmp_path / "runs")
    wait_for(lambda: worker.poll() is not None)
    assert worker.poll() == 0, (tmp_path / "runs" / config.name / LOG_NAME).read_text()


def test_interrupted_and_killed(tmp_path):
    runs = tmp_path / "runs"
    process = compare(runs, 100_000)
    wait_for(lambda: has_checkpoints(runs, 2), process)
    process.send_signal(signal.SIGINT)
    for number in [signal.SIGTERM, signal.SIGINT] * 2:
        for worker in find_workers(runs):
            with suppress(ProcessLookupError):
                os.kill(worker, number)  # as a batch system tells every process
    out, _ = process.communicate(timeout=120)
    assert process.returncode == 130
    assert out.endswith(f"{runs}: all runs are saved; the same command goes on from here.\n")
    assert find_workers(runs) == []
    directories = [RunDirectory(path.parent) for path in runs.glob("*/*/*/config.json")]
    assert [status_of(directory).state for directory in directories] == ["interrupted"] * 2
    assert {d.read_config().execution.threads for d in directories} == {1}  # OMP_NUM_THREADS
    before = min(status_of(directory).agent_steps for directory in directories)

    process = compare(runs, 100_000)
    for stream in (process.stdout, process.stderr):
        assert stream is not None
        stream.close()  # as when Ctrl-C ends tee, too
    logs = [directory.path / LOG_NAME for directory in directories]
    wait_for(lambda: all("resumed at" in log.read_text() for log in logs), process)
    process.kill()
    process.wait()
    wait_for(lambda: not find_workers(runs))
    after = [status_of(directory) for directory in directories]
    assert all(status.state == "interrupted" for status in after)
    assert min(status.agent_steps for status in after) >= before
    for directory in directories:
        with directory.lock():
            pass


@pytest.mark.usefixtures("no_figures")
def test_a_run_that_cannot_go_on_is_reported_and_the_others_finish_and_go_further(tmp_path, capsys):
    runs, name = tmp_path / "runs", "Breakout/a2c-cnn/seed0"
    broken = runs / name / "checkpoints"
    broken.parent.mkdir(parents=True)
    broken.touch()  # a file where a folder must be

    def carry_out(steps: int) -> int:
        return main([*TINY.split(), f"--steps={steps}", f"--runs={runs}"])

    assert carry_out(40) == 1
    said = capsys.readouterr()
    assert "it is tried once more." in said.out
    assert said.err.startswith(f"failed: {name}: ended with exit status ")
    states = read_states(runs)
    assert states.pop(name) != "finished"
    assert states == {"Breakout/a2c-coordconv/seed0": "finished"}
    broken.unlink()
    assert carry_out(60) == 0
    said = capsys.readouterr()
    assert said.out.startswith("2 runs of 60 agent steps: 0 have ended, 2 to train.\n")
    assert "Breakout/a2c-coordconv/seed0: goes on from 40 agent steps.\n" in said.out
    assert said.out.endswith(f"written: {runs}/report.html\n")
    assert set(read_states(runs).values()) == {"finished"}


def read_states(runs: Path) -> dict[str, str]:
    report = json.loads((runs / "report.json").read_text())
    assert report["left_out"] == []
    return {run["run"]: run["state"] for run in report["runs"]}


# --- Ray ------------------------------------------------------------------------------------------

needs_ray = pytest.mark.skipif(
    importlib.util.find_spec("ray") is None, reason='needs pip install -e ".[ray]"'
)


def test_ray_must_answer(tmp_path, refuse):
    address = "127.0.0.1:1"
    line = refuse(main, ["--compare", "--ray", address, "--runs", str(tmp_path)])
    if importlib.util.find_spec("ray") is None:
        assert line == 'error: --ray needs Ray; install it with pip install -e ".[ray]".'
    else:
        assert line.startswith(f"error: --ray {address}: no Ray cluster answers (")


RAY_NODES = """
import sys, time
from pathlib import Path
from ray.cluster_utils import Cluster

runs, deadline = Path(sys.argv[1]), time.monotonic() + 400
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
doomed = cluster.add_node(num_cpus=1)
print(cluster.address, flush=True)
while len({path.parent for path in runs.glob("*/*/*/checkpoints/*.zip")}) < 2:
    assert time.monotonic() < deadline
    time.sleep(0.1)
cluster.remove_node(doomed, allow_graceful=False)
print("lost a node", flush=True)
sys.stdin.read()
cluster.shutdown()
"""


@needs_ray
def test_on_two_ray_nodes_of_which_one_is_lost(tmp_path):
    runs = tmp_path / "runs"
    with start("-c", RAY_NODES, str(runs), stdin=subprocess.PIPE, stderr=None) as nodes:
        assert nodes.stdin is not None
        assert nodes.stdout is not None
        try:
            process = compare(runs, 4000, "--ray", nodes.stdout.readline().strip())
            assert nodes.stdout.readline() == "lost a node\n"
            out, err = process.communicate(timeout=400)
            assert process.returncode == 0, out + err
        finally:
            nodes.stdin.close()
    report = json.loads((runs / "report.json").read_text())
    assert {run["state"] for run in report["runs"]} == {"finished"}
    told = (json.loads(path.read_text()) for path in runs.glob("*/*/*/provenance.json"))
    assert sorted(len(provenance["starts"]) for provenance in told) == [1, 2]
