"""Plans, and run directories without any training, for tests of what reads them."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from configs.run_config import RunConfig
from experiments.comparison.plan import ComparisonPlan, make_plan
from experiments.comparison.report.render import write_report
from runtime.episodes import EPISODE_COLUMNS
from runtime.provenance import hash_source
from runtime.run_directory import RunDirectory, State


def plan_of(
    games: str = "Breakout Pong", seeds: int = 2, most_seeds: int | None = None, **overrides: Any
) -> ComparisonPlan:
    """A plan of A2C runs of 1000 agent steps; arms are given as one text, too.

    With `most_seeds` it goes on until decided.
    """
    design = {"arms": overrides.pop("arms").split()} if "arms" in overrides else {}
    settings = {"total_agent_steps": 1000} | overrides
    until_decided = {"until_decided": True, "most_seeds": most_seeds}
    design |= {"seeds": seeds} if most_seeds is None else until_decided
    return make_plan("a2c", settings, games=games.split(), **design)


def read_outputs(runs: Path) -> dict[str, bytes]:
    """Write the report of a folder and give its files."""
    write_report(runs)
    paths = [*runs.glob("report.*"), *runs.glob("figures/*"), *runs.glob("tensorboard/*/*")]
    return {path.relative_to(runs).as_posix(): path.read_bytes() for path in paths}


def write_run(
    runs: Path,
    config: RunConfig,
    returns: Sequence[float],
    *,
    state: State = "finished",
    sources: Sequence[str] | None = None,
) -> RunDirectory:
    """Write a run whose games ended at equal distances, ten agent steps a second."""
    directory = RunDirectory(runs / config.name)
    directory.path.mkdir(parents=True, exist_ok=True)
    directory.config_path.write_text(config.to_json())
    total = config.run.total_agent_steps
    directory.write_status(state, total if state == "finished" else total // 2)
    starts = [
        {"source": source, "python": "3.11.7", "packages": {"torch": "2.13.0"}, "device": "cpu"}
        for source in ([hash_source()] if sources is None else sources)
    ]
    directory.provenance_path.write_text(json.dumps({"starts": starts}))
    rows = [",".join(EPISODE_COLUMNS)]
    for number, value in enumerate(returns, 1):
        step = number * total // len(returns)
        rows.append(f"{step},0,{value},400,100,0,{step / 10:.3f}")
    directory.episodes_path.write_text("\n".join(rows) + "\n")
    return directory


def write_games(path: Path, returns: Sequence[float], steps_per_game: int = 1_000) -> None:
    """Write an episodes.csv into a new folder: game k, from 1, ends after 6 k seconds."""
    path.mkdir(parents=True)
    rows = [
        f"{k * steps_per_game},0,{value},400,100,0,{6 * k:.3f}"
        for k, value in enumerate(returns, 1)
    ]
    (path / "episodes.csv").write_text("\n".join([",".join(EPISODE_COLUMNS), *rows, ""]))
