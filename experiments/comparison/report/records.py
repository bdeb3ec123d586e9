"""What is on the disk of a comparison: its runs, read without opening their models."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from configs.comparison import default_criteria
from configs.run_config import BASELINE, RunConfig, experiment_differences
from configs.settings import load_preset
from envs.games import find_game
from experiments.comparison.plan import ComparisonPlan, load_plan
from experiments.comparison.statistics.curves import final_score, mean_return_over_training
from runtime.command_line import printable
from runtime.episodes import (
    PACKED_EPISODES_NAME,
    Episodes,
    parse_episodes,
    read_episodes_text,
    read_last_episodes,
)
from runtime.files import whole_path
from runtime.run_directory import RunDirectory

ENDED = ("finished", "diverged")
Key = tuple[str, str, int]  # of a run in a comparison: game, arm and seed


@dataclass(frozen=True, eq=False)
class RunRecord:
    """One run as it lies on the disk."""

    directory: RunDirectory
    config: RunConfig
    state: str  # what it is doing, or how it ended
    agent_steps: int  # trained and saved
    message: str  # why it diverged or failed; empty otherwise
    starts: Sequence[dict[str, Any]]  # the circumstances of each, as in `provenance.json`
    episodes: Episodes

    @property
    def key(self) -> Key:
        """Game, arm and seed."""
        return self.config.run.game, self.config.arm, self.config.run.seed

    @cached_property
    def score(self) -> tuple[float | None, float | None]:
        """Primary metric and final score; None without a finished game."""
        steps, returns = self.episodes.agent_steps, self.episodes.returns
        total = self.config.run.total_agent_steps
        return mean_return_over_training(steps, returns, total), final_score(returns)

    @property
    def agent_steps_per_second(self) -> float | None:
        """Of training, up to the last finished game; None if that is not known."""
        steps, seconds = self.episodes.agent_steps, self.episodes.seconds
        return float(steps[-1] / seconds[-1]) if len(seconds) and seconds[-1] > 0 else None

    @property
    def has_ended(self) -> bool:
        """Whether there is nothing left to do: a diverged run has ended, too."""
        return self.state in ENDED

    @property
    def machines(self) -> list[str]:
        """The processors that trained it, in order, each once, "with" the GPU where one did."""
        return list(dict.fromkeys(map(_describe_machine, self.starts))) or ["unknown"]

    @property
    def source(self) -> str:
        """The version of the source that trained it; several if it changed between starts."""
        return describe_source(self.starts)


@dataclass(frozen=True, order=True)
class LeftOutRun:
    """A run below the same folder that is not part of the comparison."""

    run: str
    reason: str


@dataclass(frozen=True, eq=False)
class Comparison:
    """The runs of a plan, and what is below the same folder but not part of it."""

    plan: ComparisonPlan
    is_declared: bool  # the plan was made before the runs; else it was read off them
    runs: dict[Key, RunRecord]  # that were started
    left_out: list[LeftOutRun]
    # How many seeds each game and arm needs, of a plan that goes on until decided.
    seeds_needed: Mapping[tuple[str, str], int] = field(default_factory=dict)

    def planned_runs(self) -> list[RunConfig]:
        """All runs of the plan that are needed, in order."""
        return [
            config
            for config in self.plan.runs()
            if config.run.seed in self._find_seeds(config.run.game, config.arm)
        ]

    def started_runs(self, game: str, arm: str) -> list[RunRecord]:
        """Those of the planned seeds that there are."""
        runs = [self.runs.get((game, arm, seed)) for seed in self.plan.seeds]
        return [run for run in runs if run is not None]

    def ended_runs(self, game: str, arm: str) -> list[RunRecord | None]:
        """One for each planned seed; None where it has not ended."""
        runs = [self.runs.get((game, arm, seed)) for seed in self._find_seeds(game, arm)]
        return [run if run is not None and run.has_ended else None for run in runs]

    def _find_seeds(self, game: str, arm: str) -> tuple[int, ...]:
        return self.plan.seeds[: self.seeds_needed.get((game, arm))]


@dataclass(frozen=True)
class RunProgress:
    """How far a run has come, at a glance; None is not known yet."""

    agent_steps: int
    agent_steps_per_second: float | None
    mean_return: float | None  # of the last 100 games


# --- reading --------------------------------------------------------------------------------------


def read_run(directory: RunDirectory) -> RunRecord:
    """Read what a run has left.

    Raises:
        OSError: If a file is missing; one line.
        ValueError: If a file is damaged, or it is the directory of another run; one line.
    """
    config, status = directory.read_config(), directory.read_status()
    find_game(config.run.game)
    if whole_path(directory.path).parts[-3:] != Path(config.name).parts:
        raise ValueError(f"its config is that of {config.name}")
    state = "not started" if status is None else status.state
    games = read_episodes_text(directory.episodes_path)
    if state in ENDED and not games:  # without a game there is the heading
        path = directory.episodes_path
        path = path.with_name(PACKED_EPISODES_NAME) if directory.is_packed() else path
        raise FileNotFoundError(
            f"{path} is missing or empty; restore it, or delete {directory.path} to train the run "
            "again."
        )
    return RunRecord(
        directory=directory,
        config=config,
        state=state,
        agent_steps=max(0 if status is None else status.agent_steps, directory.count_saved_steps()),
        message="" if status is None else status.message,
        starts=read_starts(directory),
        episodes=parse_episodes(games, directory.episodes_path),
    )


def read_runs(
    directories: Iterable[RunDirectory],
) -> tuple[list[RunRecord], list[tuple[Path, str]]]:
    """Read what runs have left; and the paths of those that are damaged, each with the fault."""
    records, faults = [], []
    for directory in directories:
        try:
            records.append(read_run(directory))
        except (OSError, ValueError) as error:
            fault = str(error).replace(f"{directory.path}/", "")
            faults.append((directory.path, printable(fault)))
    return records, faults


def read_starts(directory: RunDirectory) -> list[dict[str, Any]]:
    """The circumstances of each start of a run; none if it was never started.

    Raises:
        ValueError: If the file is damaged; one line.
    """
    try:
        values = directory.read_json("provenance.json")
    except FileNotFoundError:
        return []
    starts = values.get("starts") if isinstance(values, dict) else None
    if not isinstance(starts, list) or not all(isinstance(start, dict) for start in starts):
        raise ValueError(f"{directory.provenance_path}: not a list of starts; restore the file.")
    if not describe_source(starts).isprintable():
        raise ValueError(
            f"{directory.provenance_path}: `source` must be printable text; restore the file."
        )
    return starts


def _describe_machine(start: Mapping[str, Any]) -> str:
    processor, device = (str(start.get(name) or "unknown") for name in ("processor", "device"))
    # Runs that began before GPUs were told apart lack it.
    gpu = start.get("gpu") or device.partition(":")[0]
    return processor if device in ("cpu", "unknown") else f"{processor} with {gpu}"


def describe_source(starts: Sequence[dict[str, Any]]) -> str:
    """The version of the source of all starts; several if it changed between them."""
    versions = [str(start.get("source", "unknown")) for start in starts]
    return ", ".join(dict.fromkeys(versions)) or "unknown"


def read_progress(directory: RunDirectory) -> RunProgress:
    """Look at a run that may be training at this moment, reading little."""
    steps, rate = directory.count_saved_steps(), None
    try:
        last = read_last_episodes(directory.episodes_path)
    except (OSError, ValueError):
        return RunProgress(steps, None, None)
    if not len(last.returns):
        return RunProgress(steps, None, None)
    seconds = last.seconds[-1] - last.seconds[0]
    if seconds > 0:
        rate = float((last.agent_steps[-1] - last.agent_steps[0]) / seconds)
    return RunProgress(max(steps, int(last.agent_steps[-1])), rate, final_score(last.returns))


def has_ended(directory: RunDirectory, planned: RunConfig) -> bool:
    """Whether a planned run has nothing left to do."""
    status = directory.read_status() if directory.exists() else None
    if status is None or status.state not in ENDED:
        return False
    total = directory.read_config().run.total_agent_steps
    return total == planned.run.total_agent_steps


# --- which runs belong together -------------------------------------------------------------------


def find_runs(runs: Path, below: str = "*/*/seed*") -> list[RunDirectory]:
    """The directories of all runs below a folder, packed or not, by name."""
    found = {
        path.parent
        for name in ("config.json", "packed.json")
        for path in runs.glob(f"{below}/{name}")
    }
    return [RunDirectory(path) for path in sorted(found)]


def gather(runs: Path) -> Comparison:
    """Read all runs below a folder, and keep those that its plan asks for.

    Without one it is read off the runs: that of the largest group which differs in game, arm and
    seed alone.

    Raises:
        FileNotFoundError: If there are neither runs nor a plan; one line.
        ValueError: If the plan is damaged; one line.
    """
    plan = load_plan(runs)
    if not runs.is_dir():
        raise FileNotFoundError(f"{runs} is not a folder; give the folder that was --runs.")
    records, faults = read_runs(find_runs(runs))
    left_out = [
        LeftOutRun(printable(path.relative_to(runs).as_posix()), fault) for path, fault in faults
    ]
    records, is_declared = [as_planned(run, plan) for run in records], plan is not None
    if plan is None:
        if not records:
            what = "runs; train some first: python train.py --compare."
            if left_out:
                what = f"readable runs; {left_out[0].run}: {left_out[0].reason}"
            raise FileNotFoundError(f"{runs} has no {what}")
        plan = _infer_plan(records)
    included = {}
    for record in records:
        reason = find_misfit(record, plan)
        if reason is None:
            included[record.key] = record
        else:
            left_out.append(LeftOutRun(record.config.name, reason))
    return Comparison(plan, is_declared, included, sorted(left_out))


def as_planned(record: RunRecord, plan: ComparisonPlan | None) -> RunRecord:
    """A run as the plan sees it: one that is shorter, and can be made longer, has not ended."""
    if plan is None or record.config.run.total_agent_steps >= plan.total_agent_steps:
        return record
    if record.directory.is_packed() or record.config.find_schedule():
        return record
    config = record.config.with_total_agent_steps(plan.total_agent_steps)
    return replace(record, config=config, state="interrupted" if record.has_ended else record.state)


def find_misfit(record: RunRecord, plan: ComparisonPlan) -> str | None:
    """Why a run cannot be pooled with the plan's; None if it can."""
    run = record.config.run
    if run.algo != plan.template.run.algo:
        return f"another algorithm ({run.algo})"
    arm, network = record.config.arm, record.config.network
    planned_run = plan.run_of(run.game, arm if arm in plan.arms else plan.arms[0], run.seed)
    differing = experiment_differences(record.config, planned_run)
    if arm not in plan.arms:
        differing = [name for name in differing if name not in type(network).model_fields]
    if differing:
        settings = {**vars(run), **vars(network), **vars(record.config.hyperparameters)}
        shown = ", ".join(f"{name} = {settings.get(name)}" for name in differing)
        return f"other settings ({shown})"
    if run.total_agent_steps != plan.total_agent_steps:
        return f"another length ({run.total_agent_steps:_} agent steps)"
    if record.starts and record.source != plan.source:
        return f"another source version ({record.source})"
    planned = run.game in plan.games and arm in plan.arms and run.seed in plan.seeds
    return None if planned else "not in the plan"


def _infer_plan(records: Sequence[RunRecord]) -> ComparisonPlan:
    """The plan that the largest group of comparable runs would have had."""
    groups: dict[Any, list[RunRecord]] = {}
    for record in records:
        shared = record.config.run.model_dump(exclude={"game", "seed"})
        key = (*shared.items(), record.config.hyperparameters, record.source)
        groups.setdefault(key, []).append(record)
    largest = max(groups.values(), key=len)  # of equal ones the first by name
    own = [run for run in largest if run.config.network.extractor]
    games, arms, seeds = (set(part) for part in zip(*(run.key for run in largest), strict=True))
    known_games = load_preset("comparison")["comparison"]["games"]
    return ComparisonPlan.parse(
        {
            "games": tuple(sorted(games, key=lambda game: (game not in known_games, game))),
            "arms": tuple(sorted(arms, key=lambda arm: (arm.split(",")[0] != BASELINE, arm))),
            "extractors": tuple({run.key[1]: run.config.network for run in own}.values()),
            "seeds": tuple(sorted(seeds)),
            "template": largest[0].config,
            "criteria": default_criteria(),
            "source": largest[0].source,
        }
    )
