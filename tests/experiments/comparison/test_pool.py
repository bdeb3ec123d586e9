"""Carrying out a plan, with workers that only pretend, and what is shown meanwhile."""

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from configs.run_config import RunConfig
from experiments.comparison.execution.live_table import LiveTable, format_rows
from experiments.comparison.execution.pool import LOG_NAME, execute, find_unfinished
from experiments.comparison.plan import ComparisonPlan, make_plan
from experiments.comparison.report.records import RunProgress
from experiments.comparison.report.stages import StageWatch
from runtime.provenance import hash_source
from runtime.run_directory import RunDirectory
from runtime.stop_request import StopRequest
from tests.refusals import refusal
from tests.short_runs import Interruption
from tests.synthetic_runs import plan_of, write_run


class Pretender:
    """Ends when it is polled the second time, or when told to."""

    def __init__(self, end: Callable[[], int]) -> None:
        self._end = end
        self._polls = 0
        self.told: list[str] = []

    def poll(self) -> int | None:
        self._polls += 1
        return self._end() if self._polls > 1 or self.told else None

    def terminate(self) -> None:
        self.told.append("terminate")

    def kill(self) -> None:
        self.told.append("kill")


class Cluster:
    """Starts pretenders, and remembers what was asked of it."""

    def __init__(
        self,
        outcomes: dict[str, list[str]] | None = None,
        score: Callable[[RunConfig], float] = lambda _: 1.0,
    ) -> None:
        self._score = score
        self.started: list[RunConfig] = []
        self.workers: list[Pretender] = []
        self._outcomes = outcomes or {}

    def launch(self, config: RunConfig, runs: Path) -> Pretender:
        self.started.append(config)
        directory = RunDirectory(runs / config.name)
        outcome = self._outcomes.get(config.name, ["finished"]).pop(0)

        def end() -> int:
            if outcome == "crash":
                directory.path.mkdir(parents=True, exist_ok=True)
                (directory.path / LOG_NAME).write_text("Traceback\nboom\n")
                return 1
            state: Any = "interrupted" if self.workers[-1].told else outcome
            write_run(runs, config, [self._score(config)], state=state)
            return 143 if self.workers[-1].told else 0 if state == "finished" else 1

        self.workers.append(Pretender(end))
        return self.workers[-1]


def run(plan: ComparisonPlan, runs: Path, cluster: Cluster, stop: StopRequest | None = None, **how):
    options: dict[str, Any] = {"jobs": 2, "threads": 1, "launch": cluster.launch}
    return execute(
        plan,
        find_unfinished(plan, runs),
        runs,
        **(options | how),
        stop=StopRequest() if stop is None else stop,
    )


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch):
    monkeypatch.setattr("experiments.comparison.execution.pool.SECONDS_BETWEEN_LOOKS", 0.0)


def test_all_runs_are_trained_in_the_plans_order(tmp_path):
    plan, cluster = plan_of(), Cluster()
    assert run(plan, tmp_path, cluster, threads=3) == []
    assert [config.name for config in cluster.started] == [c.name for c in plan.runs()]
    assert {config.execution.threads for config in cluster.started} == {3}
    assert find_unfinished(plan, tmp_path) == []


GAINS = [44.0, 50.0, 60.0, 20.0, 40.0]  # by seed: neither decided nor hopeless


def score_by_seed(config: RunConfig) -> float:
    """Breakout: a gain that five seeds do not decide. Pong: nothing in it for either arm."""
    if config.run.game == "Pong":
        return -21.0
    return 200.0 + config.run.seed + (GAINS[config.run.seed] if config.arm == "coordconv" else 0.0)


def test_a_plan_until_decided_trains_what_its_games_need(tmp_path, capsys):
    plan = plan_of(most_seeds=5)
    cluster, watch = Cluster(score=score_by_seed), StageWatch(plan, tmp_path)
    assert run(plan, tmp_path, cluster, watch=watch, jobs=1) == []
    assert [config.name for config in cluster.started] == [
        config.name for config in plan.runs() if config.run.game != "Pong" or config.run.seed < 3
    ]
    assert capsys.readouterr().out.splitlines()[0] == (
        "at most 20 runs of 1_000 agent steps to train, until all games have stopped."
    )
    again = StageWatch(plan, tmp_path)
    left = [config for config in find_unfinished(plan, tmp_path) if again.may_be_needed(config)]
    assert left == []


@pytest.mark.parametrize("most_seeds", [None, 6])
def test_a_comparison_does_not_go_on_without_the_games_of_an_ended_run(tmp_path, most_seeds):
    plan = plan_of("Pong", seeds=5, most_seeds=most_seeds)
    for config in plan.runs()[:10]:
        write_run(tmp_path, config, [1.0])
    assert find_unfinished(plan, tmp_path) == plan.runs()[10:]
    lost = RunDirectory(tmp_path / plan.runs()[0].name)
    lost.episodes_path.unlink()
    line = refusal(find_unfinished, plan, tmp_path, error=FileNotFoundError)
    assert line == (
        f"{lost.episodes_path} is missing or empty; restore it, or delete {lost.path} to train the "
        "run again."
    )


def test_a_failed_run_holds_up_its_own_game_alone(tmp_path):
    plan, name = plan_of(most_seeds=4), "Pong/a2c-cnn/seed2"
    cluster = Cluster({name: ["crash", "crash"]}, score_by_seed)
    (failure,) = run(plan, tmp_path, cluster, watch=StageWatch(plan, tmp_path), jobs=8)
    assert failure.name == name
    seeds = {
        game: {c.run.seed for c in cluster.started if c.run.game == game} for game in plan.games
    }
    assert seeds == {"Breakout": {0, 1, 2, 3}, "Pong": {0, 1, 2}}


def test_a_crash_is_tried_once_more_and_then_reported_and_divergence_is_a_result(tmp_path):
    twice, once, diverges = (f"{name}/a2c-cnn/seed0" for name in ("Breakout", "Pong", "Qbert"))
    outcomes = {twice: ["crash", "crash"], once: ["crash", "finished"], diverges: ["diverged"]}
    plan, cluster = plan_of("Breakout Pong Qbert"), Cluster(outcomes)
    (failure,) = run(plan, tmp_path, cluster)
    assert failure.name == twice
    assert failure.message == "ended with exit status 1 (boom)"
    assert failure.log == tmp_path / twice / LOG_NAME
    started = [config.name for config in cluster.started]
    assert [started.count(name) for name in (twice, once, diverges)] == [2, 2, 1]
    assert len(set(started)) == len(plan.runs())
    assert [config.name for config in find_unfinished(plan, tmp_path)] == [twice]


def test_when_stopped_all_are_told_and_none_is_started(tmp_path):
    cluster = Cluster()
    assert run(plan_of(), tmp_path, cluster, Interruption(4)) == []
    assert 1 <= len(cluster.started) <= 2
    assert all(worker.told == ["terminate"] for worker in cluster.workers)


def test_what_cannot_be_saved_when_stopped_is_reported(tmp_path):
    plan, stop = plan_of(), StopRequest()
    first, second, *_ = (config.name for config in plan.runs())
    cluster = Cluster({first: ["crash"]})

    def launch(config: RunConfig, runs: Path) -> Pretender:
        stop.signal = signal.SIGINT if config.name == second else None
        return cluster.launch(config, runs)

    (failure,) = run(plan, tmp_path, cluster, stop, launch=launch)
    assert (failure.name, failure.message) == (first, "ended with exit status 1 (boom)")
    assert [worker.told for worker in cluster.workers] == [["terminate"], ["terminate"]]


@pytest.mark.parametrize(
    ("obedient", "told"), [(True, ["terminate"]), (False, ["terminate", "kill"])]
)
def test_a_second_interrupt_gives_time_for_saving(tmp_path, monkeypatch, obedient, told):
    cluster = Cluster()
    if not obedient:
        monkeypatch.setattr(Pretender, "poll", lambda _: None)

    def interrupt(_: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("experiments.comparison.execution.pool.time.sleep", interrupt)
    if obedient:
        with pytest.raises(KeyboardInterrupt):
            run(plan_of(), tmp_path, cluster)
    else:
        failures = run(plan_of(), tmp_path, cluster)
        names = [config.name for config in cluster.started]
        assert [failure.name for failure in failures] == names
        assert {failure.message for failure in failures} == {"killed before it was saved"}
    assert [worker.told for worker in cluster.workers] == [told, told]


@pytest.mark.parametrize(
    ("change", "sources", "message"),
    [
        ({"gamma": 0.5}, None, "holds a run of other settings (gamma); choose another --runs "
         "folder, or delete it."),
        ({"total_agent_steps": 2000}, None, "is a run of 2_000 agent steps, longer than the 1_000 "
         "asked for; ask for at least as many."),
        ({}, ["abc"], f"was trained by source version abc, the plan is for {hash_source()}; delete "
         "it, or choose another --runs folder."),
        ({"learning_rate_schedule": "linear", "total_agent_steps": 50}, None, "is a run of 50 "
         "agent steps, over which its learning rate falls, and going on to 1_000 would raise "
         "it again; choose another --runs folder for the longer run."),
    ],
)  # fmt: skip
def test_runs_that_do_not_fit_are_refused(tmp_path, change, sources, message):
    directory = write_run(tmp_path, plan_of(**change).runs()[0], [1.0], sources=sources)
    shared = {name: value for name, value in change.items() if name.startswith("learning_rate")}
    assert refusal(find_unfinished, plan_of(**shared), tmp_path) == f"{directory.path} {message}"


def test_the_live_table():
    first, second, *_ = plan_of().runs()
    rows = format_rows([first, second], [RunProgress(500, 50.0, 1.25), RunProgress(0, None, None)])
    assert [row.split() for row in rows[1:]] == [
        ["Breakout/a2c-cnn/seed0", "500", "50.0%", "50", "1.2", "10", "s"],
        ["Breakout/a2c-coordconv/seed0", "0", "0.0%", "-", "-", "-"],
    ]
    assert len({len(row) for row in rows}) == 1


def test_long_names_give_way_to_the_figures_beside_them():
    long = "coordconv-all learning_rate=3e-4 ent_coef=0.025 n_steps=16"
    plan = make_plan("a2c", {}, games=["Breakout"], seeds=1, arms=["cnn", long])
    progress = [RunProgress(500_000, 50.0, 1.25), RunProgress(0, None, None)]
    rows = format_rows(plan.runs(), progress, 79)
    assert {len(row) for row in rows} == {79}
    assert rows[1].split()[:2] == ["Breakout/a2c-cnn/seed0", "500_000"]
    assert rows[2].split()[:2] == ["Breakout/a...,n_steps=16/seed0", "0"]
    for name in ("Breakout/a2c-cnn/seed0", plan.runs()[1].name):
        assert any(row.startswith(f"{name} ") for row in format_rows(plan.runs(), progress))


def test_the_table_fits_its_terminal_and_is_redrawn_whole(tmp_path, monkeypatch, capsys):
    size = os.terminal_size((100, 5))
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr("shutil.get_terminal_size", lambda: size)
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    monkeypatch.setattr("experiments.comparison.execution.live_table.SECONDS_BETWEEN_REDRAWS", 0)
    plan = plan_of()
    *active, going_on, last = plan.runs()
    for config in (going_on, active[0]):
        directory = write_run(tmp_path, config, [1.0], state="interrupted")  # 10 steps a second
        directory.checkpoints_path.mkdir()
        (directory.checkpoints_path / "400.zip").touch()
    table = LiveTable(plan, tmp_path, plan.runs())
    table.run_starts(going_on)
    table.run_starts(last)
    assert capsys.readouterr().out.splitlines() == [
        "8 runs of 1_000 agent steps: 0 have ended, 8 to train.",
        f"{going_on.name}: goes on from 400 agent steps.",
    ]
    table.show(active, [going_on, last], 0)
    heading, first, more, summary = capsys.readouterr().out.splitlines()
    assert heading.startswith("run ")
    assert first.split()[:3] == [active[0].name, "1_000", "100.0%"]
    assert more == "... 5 more"
    # 5 * 1000 steps of those training and 600 + 1000 of those waiting, by 6 at 10 a second
    assert summary.startswith("1 min 50 s left at 60 agent steps/s; 0 of 8 ended, 6 training")
    size = os.terminal_size((50, 4))  # the summary has wrapped
    table.show(active, [], 0)
    erased, rest = capsys.readouterr().out.split("\x1b[J")
    assert erased == "\x1b[3F"  # as far up as the terminal goes
    assert rest.splitlines()[1:] == [
        "... 6 more",
        "1 min 23 s left at 60 agent steps/s; 2 of 8 ended",
    ]
    assert all(len(line) < 50 for line in rest.splitlines())
    size = os.terminal_size((30, 24))
    table.say("a line")
    assert capsys.readouterr().out == "\x1b[5Fa line\n".replace("F", "F\x1b[J")


def test_a_new_run_gets_its_share_of_the_threads_and_one_that_goes_on_keeps_its_own(tmp_path):
    plan, cluster = plan_of("Breakout", seeds=1), Cluster()
    _, interrupted = plan.runs()
    write_run(tmp_path, interrupted, [1.0], state="interrupted")
    run(plan, tmp_path, cluster)
    threads = {config.name: config.execution.threads for config in cluster.started}
    assert threads.pop(interrupted.name) == 0  # as it was
    (share,) = threads.values()
    assert share >= 1
