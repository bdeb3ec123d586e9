"""The comparison in TensorBoard: one chart per game with all arms, and the report as text."""

from collections.abc import Mapping
from pathlib import Path

from tensorboard.compat.proto.event_pb2 import Event
from torch.utils.tensorboard.summary import scalar, text

from agents.training.tensorboard import GAME_CHARTS, lay_out_charts
from experiments.comparison.report.figures import smooth_curves
from experiments.comparison.report.records import Comparison
from experiments.comparison.statistics.curves import bin_middles, compute_curve_band
from runtime.event_files import make_image, pack_events
from runtime.files import write_atomically

FOLDER = "tensorboard"
_REPORT = "comparison-report"  # no arm has such a name: it is neither of the arms' nor a class's
_FILE_NAME = "events.out.tfevents.0.report"  # the same report is the same file
_CHARTS = {"Mean over seeds": "mean_return"} | GAME_CHARTS


def write_tensorboard(
    runs: Path, comparison: Comparison, markdown: str, figures: Mapping[str, bytes]
) -> None:
    """Write TensorBoard's event files of a report, replacing those of the one before.

    The layout of the page "Custom Scalars" has a chart per game, first of the mean curves, which
    are runs of their own named after the arms, then of all single runs. Times are left at zero.
    """
    tables = "\n\n".join(part for part in markdown.split("\n\n") if not part.startswith("!["))
    summaries = [
        lay_out_charts(_CHARTS, comparison.plan.games),
        text("report", tables),  # type: ignore[no-untyped-call]
        *(make_image(f"report/{name}", png) for name, png in figures.items()),
    ]
    _write_events(runs / FOLDER / _REPORT, [Event(summary=summary) for summary in summaries])
    for outdated in (runs / FOLDER).glob(f"*/{_FILE_NAME}"):
        if outdated.parent.name not in (_REPORT, *comparison.plan.arms):
            outdated.unlink()
    total = comparison.plan.total_agent_steps
    for arm in comparison.plan.arms:
        events = []
        for game in comparison.plan.games:
            band = compute_curve_band(smooth_curves(comparison.started_runs(game, arm), total))
            for step, mean, seeds in zip(bin_middles(total), band.mean, band.seeds, strict=True):
                if seeds:
                    summary = scalar(f"mean_return/{game}", mean)  # type: ignore[no-untyped-call]
                    events.append(Event(step=round(step), summary=summary))
        _write_events(runs / FOLDER / arm, events)


def _write_events(folder: Path, events: list[Event]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / _FILE_NAME, pack_events(events))
