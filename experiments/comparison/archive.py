"""Packs finished runs to what the report needs: `python -m experiments.comparison.archive`.

A packed run (`runtime.run_directory`) is read wherever a run directory is, so the same report comes
from both, and a comparison goes on in a folder of packed runs: they count as finished. What names
the machine's folders, the command line of each start, stays behind.
"""

import lzma
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from configs.run_config import experiment_differences
from experiments.comparison.plan import PLAN_NAME, ComparisonPlan, continue_plan, load_plan
from experiments.comparison.report.position_use import (
    ABLATION_NAME,
    SHARES_NAME,
    find_weight_shares,
)
from experiments.comparison.report.records import (
    RunRecord,
    as_planned,
    describe_source,
    find_misfit,
    find_runs,
    read_run,
    read_runs,
    read_starts,
)
from runtime.command_line import (
    FAILED,
    OneLineParser,
    exit_on_user_error,
    parse_path,
    printable,
)
from runtime.episodes import PACKED_EPISODES_NAME, read_episodes_text
from runtime.files import dump_json, read_json, write_atomically
from runtime.run_directory import RunDirectory

_NEEDED = ("config.json", "status.json", "provenance.json")
_REMEDY = "choose another ARCHIVE folder."
_EVALUATIONS = ("evaluation/returns.json", ABLATION_NAME)


def main(arguments: Sequence[str] | None = None) -> int:
    """Pack what has ended; returns 1 if a run could not be read."""
    unreadable: list[str] = []
    with exit_on_user_error():
        parser = OneLineParser(
            prog="python -m experiments.comparison.archive",
            description="Pack the finished runs of a comparison to what its report needs, into a "
            "folder that python -m experiments.comparison and train.py --compare --runs read as "
            "they do the runs themselves. The same command again adds what has finished since.",
        )
        parser.add_argument("runs", metavar="RUNS", help="the folder of the runs")
        parser.add_argument("archive", metavar="ARCHIVE", help="the folder to pack them into")
        options = parser.parse_args(arguments)
        runs, archive = parse_path(options.runs, "RUNS"), parse_path(options.archive, "ARCHIVE")
        packed, unfinished, unreadable = pack_runs(runs, archive)
        for line in unreadable:
            print(f"not packed: {line}", file=sys.stderr)
        size = sum(path.stat().st_size for path in archive.rglob("*") if path.is_file())
        print(
            f"{archive}: {packed} runs packed, {unfinished} not finished yet; "
            f"{size / 1e6:.1f} MB in all."
        )
    return FAILED if unreadable else 0


def pack_runs(runs: Path, archive: Path) -> tuple[int, int, list[str]]:
    """Pack every run below a folder that has ended, and the plan.

    Runs in the archive that are not below the folder stay.

    Returns:
        How many runs are packed, how many have not ended, and a line for each that is
        damaged or would replace another.

    Raises:
        OSError: If there is nothing to pack, or a file cannot be written; one line.
        ValueError: If the archive is one of another comparison; one line.
    """
    directories = find_runs(runs)
    plan, archived_plan = load_plan(runs), load_plan(archive)
    if not directories:
        raise FileNotFoundError(f"{runs} has no runs; give the folder that was --runs.")
    if archive.resolve() == runs.resolve():
        raise ValueError(f"ARCHIVE is RUNS itself, {runs}; name another folder.")
    try:
        archive.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"cannot write to {archive} ({error.strerror}); {_REMEDY}") from None
    if plan is not None:
        if archived_plan is not None:
            _check_plan(archive, archived_plan, plan)
        else:
            _check_runs(archive, plan)
        # As it was declared: this release may have settings that the one it is for does not know.
        _write_if_changed(archive / PLAN_NAME, (runs / PLAN_NAME).read_bytes())
    packed, unfinished, unreadable = 0, 0, []
    for directory in directories:
        name = directory.path.relative_to(runs).as_posix()
        try:
            run = as_planned(read_run(directory), plan)
            if not run.has_ended:
                unfinished += 1
                continue
            target = RunDirectory(archive / name)
            games = read_episodes_text(directory.episodes_path)
            _check_target(target, run, games, archived_plan if plan is None else None)
            contents = _read_contents(run, target)
            text = dump_json(contents)
        except (OSError, ValueError) as error:
            unreadable.append(printable(f"{name}: {error}"))
            continue
        target.path.mkdir(parents=True, exist_ok=True)
        # The games first: it is `packed.json` that makes a packed run.
        compressed = lzma.compress(games.encode(), preset=9 | lzma.PRESET_EXTREME)
        _write_if_changed(target.path / PACKED_EPISODES_NAME, compressed)
        _write_if_changed(target.packed_path, text.encode())
        packed += 1
    return packed, unfinished, unreadable


def _check_plan(archive: Path, archived: ComparisonPlan, plan: ComparisonPlan) -> None:
    """Refuse to replace an archive's plan by one that does not go on with it."""
    fault, looks = "", archived.looks
    try:
        continue_plan(archived, plan, judged=False)
    except ValueError as error:
        fault = f"is of another plan: {str(error).rpartition('; ')[0]}"
    else:
        if archived.total_agent_steps != plan.total_agent_steps:
            fault = f"has runs of {archived.total_agent_steps:_} agent steps, the plan of RUNS is "
            fault += f"of {plan.total_agent_steps:_}"
        elif plan.looks[: len(looks)] != looks:
            fault = f"has had looks at {list(looks)} seeds that the plan of RUNS leaves out"
    if fault:
        raise ValueError(f"{archive} {fault}; {_REMEDY}")


def _check_runs(archive: Path, plan: ComparisonPlan) -> None:
    """Refuse to put a plan beside packed runs that it does not have."""
    runs, _ = read_runs(find_runs(archive))  # the damaged ones may be replaced
    for run in runs:
        if misfit := find_misfit(as_planned(run, plan), plan):
            path = run.directory.path
            raise ValueError(f"{path} is of no plan or another: {misfit}; {_REMEDY}")


def _check_target(
    target: RunDirectory, run: RunRecord, games: str, plan: ComparisonPlan | None
) -> None:
    """Refuse to pack a run over another, or into the archive of a plan that it does not fit.

    A table of games that is damaged there, or has fewer of the same games, is replaced, and so is
    a run that had diverged and has been trained to its end since.
    """
    if plan is not None and (misfit := find_misfit(run, plan)):
        raise ValueError(f"{misfit}: the archive's {PLAN_NAME} has no such run; {_REMEDY}")
    if not target.exists():
        return
    if not target.is_packed():
        raise ValueError(f"{target.path} is a run that is not packed; {_REMEDY}")
    saved = target.read_config()
    differing = experiment_differences(saved, run.config)
    if saved.run.total_agent_steps != run.config.run.total_agent_steps:
        differing.append("total_agent_steps")
    if describe_source(read_starts(target)) != run.source:
        differing.append("source version")
    status = target.read_status()
    has_diverged = status is not None and status.state == "diverged"
    if not differing and not (has_diverged and run.state == "finished"):
        with suppress(ValueError):
            if not games.startswith(read_episodes_text(target.episodes_path)):
                differing.append("games")
    if differing:
        raise ValueError(f"{target.path} is another run ({', '.join(differing)}); {_REMEDY}")


def _read_contents(run: RunRecord, target: RunDirectory) -> dict[str, Any]:
    """What becomes of a run's JSON files, by name, and the shares of its weights.

    What was packed of it, and was deleted from the run since, stays.
    """
    contents = {name: _without_command(run.directory.read_json(name)) for name in _NEEDED}
    packed = read_json(target.packed_path) if target.is_packed() else {}
    for name in _EVALUATIONS:
        try:
            contents[name] = _without_command(run.directory.read_json(name))
        except FileNotFoundError:
            if name in packed:
                contents[name] = packed[name]
    shares = find_weight_shares(run)
    contents[SHARES_NAME] = (
        packed.get(SHARES_NAME) if shares is None else {str(k): v for k, v in shares.items()}
    )
    return contents


def _without_command(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_command(part) for name, part in value.items() if name != "argv"}
    return [_without_command(part) for part in value] if isinstance(value, list) else value


def _write_if_changed(path: Path, data: bytes) -> None:
    if not path.exists() or path.read_bytes() != data:
        write_atomically(path, data)


if __name__ == "__main__":
    sys.exit(main())
