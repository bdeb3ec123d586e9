"""How fast variants of a preset learn, as rows of a Markdown table.

    python -m benchmarks.preset_trials VARIANT_DIR...

Every folder holds the runs of one variant, `<Game>/<arm>/seed<k>/`, and is called what the variant
is called. A cell is the mean over the seeds that have come so far: of all games that ended in the
first so many agent steps, and of the last 100 games. Live are those filters of each convolution
(of 32, 64 and 64) that are above zero anywhere in the newest checkpoint's 16 observations.
"""

import io
import itertools
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.torch_layers import NatureCNN
from torch import Tensor

from agents.evaluation.agent import load_agent
from agents.models.model_file import ModelFile, read_newest_checkpoint
from experiments.comparison.report.records import RunRecord, find_runs, read_run
from experiments.comparison.statistics.curves import final_score
from policies.extractors import count_live_filters
from runtime.command_line import OneLineParser, exit_on_user_error
from runtime.episodes import FINAL_GAMES
from runtime.files import whole_path


def main(arguments: list[str] | None = None) -> int:
    """Print the table; returns the exit status."""
    parser = OneLineParser(
        prog="python -m benchmarks.preset_trials",
        description=__doc__,
    )
    parser.add_argument("variants", type=Path, nargs="+", help="folders of runs")
    parser.add_argument(
        "--marks", type=float, nargs="+", default=[0.5, 1, 2], help="million agent steps (0.5 1 2)"
    )
    options = parser.parse_args(arguments)
    if wrong := [mark for mark in options.marks if not mark > 0]:
        parser.error(f"--marks must be above 0, got {wrong[0]:g}")
    with exit_on_user_error():
        print("\n".join(format_trials(options.variants, sorted(options.marks))))
    return 0


def format_trials(variants: Sequence[Path], marks: Sequence[float]) -> list[str]:
    """The lines of the table of folders of runs, at marks in million agent steps.

    Raises:
        ValueError: If a folder has no runs, or a file is damaged; one line.
    """
    rows: list[tuple[str, str]] = []
    for variant in variants:
        records = sorted(map(read_run, find_runs(variant)), key=lambda run: run.key)
        if not records:
            raise ValueError(f"{variant} has no runs <Game>/<arm>/seed<k>; give another folder.")
        for (game, arm), runs in itertools.groupby(records, key=lambda run: run.key[:2]):
            name = whole_path(variant).name + ("" if arm == "cnn" else f", {arm}")
            cells = [game, name, *_cells_of(list(runs), marks)]
            rows.append((game, f"| {' | '.join(cells)} |"))
    heads = [*(f"first {mark:g}M" for mark in marks), f"last {FINAL_GAMES} games"]
    heads += [f"live, layer {layer}" for layer in range(3)]
    return [
        f"| game | variant | seeds | {' | '.join(heads)} |",
        "|---|---|---|" + "---:|" * len(heads),
        *(row for _, row in sorted(rows, key=lambda row: row[0])),
    ]


def _cells_of(runs: Sequence[RunRecord], marks: Sequence[float]) -> list[str]:
    """Seeds, means at the marks, final score and live filters of one variant in one game."""
    # A run may have trained on after its last game, or its last games are not saved yet.
    trained = [max([run.agent_steps, *run.episodes.agent_steps[-1:].tolist()]) for run in runs]
    cells = [", ".join(str(run.config.run.seed) for run in runs)]
    for mark in marks:
        returns = [
            run.episodes.returns[run.episodes.agent_steps <= 1e6 * mark]
            for run, length in zip(runs, trained, strict=True)
            if length >= 1e6 * mark
        ]
        cells.append(_show([part.mean() for part in returns if len(part)], len(runs)))
    scores = [final_score(run.episodes.returns) for run in runs]
    at = f" (at {min(trained) / 1e6:.2g}M)" if min(trained) < marks[-1] * 1e6 else ""
    cells.append(_show([score for score in scores if score is not None], len(runs)) + at)
    live = [counts for run in runs if (counts := count_live(run)) is not None]
    return [*cells, *(_show([counts[layer] for counts in live], len(runs)) for layer in range(3))]


def count_live(run: RunRecord) -> list[int] | None:
    """Live filters of each convolution of the newest checkpoint, which has observations.

    None without a checkpoint, and of networks that are not this project's.
    """
    checkpoint = read_newest_checkpoint(run.directory)
    if checkpoint is None or run.config.network.extractor:
        return None
    policy: Any = load_agent(checkpoint.path, None, None, torch.device("cpu")).policy
    extractor = getattr(policy, "q_net", policy).features_extractor
    assert isinstance(extractor, NatureCNN)
    return count_live_filters(extractor, read_last_images(checkpoint))


def read_last_images(checkpoint: ModelFile) -> Tensor:
    """The observations that a checkpoint's run goes on from; float32 [B, C, H, W] in [0, 1]."""
    saved = np.load(io.BytesIO(checkpoint.read_member("resume.npz")), allow_pickle=False)
    return torch.as_tensor(saved["last_observations"]).float() / 255


def _show(values: Sequence[float], of: int) -> str:
    """The mean over seeds, their range if there are several, and how many they are if not all."""
    if not values:
        return "-"
    text = f"{np.mean(values):.4g}"
    if len(values) > 1:
        text += f" ({min(values):.4g} to {max(values):.4g})"
    return text + f" [{len(values)} of {of}]" * (len(values) < of)


if __name__ == "__main__":
    sys.exit(main())
