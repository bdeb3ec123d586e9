"""How much position adds to the first convolution, beside the image, as rows of a Markdown table.

    python -m benchmarks.position_size RUN_DIR... [--extractor module:Class]

By the newest checkpoint, on the observations in it; A2C runs of networks whose first layer is a
convolution `cnn.0`. Map: the root mean square of what position adds to the filters' outputs, each
filter's mean over all places left out, which is no more than a bias. Image: the root mean square of
what the image adds to them, its mean kept.
"""

import sys
from pathlib import Path

import torch
from torch import Tensor, nn

from agents.evaluation.agent import load_agent
from agents.models.model_file import read_newest_checkpoint
from benchmarks.preset_trials import read_last_images
from policies.coordconv import plain_convolution
from runtime.command_line import OneLineParser, exit_on_user_error
from runtime.run_directory import RunDirectory

HEADINGS = ("run", "agent steps", "map", "image")


def main(arguments: list[str] | None = None) -> int:
    """Print the table; returns the exit status."""
    parser = OneLineParser(
        prog="python -m benchmarks.position_size",
        description=__doc__,
    )
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN_DIR", help="A2C runs")
    parser.add_argument("--extractor", metavar="MODULE:CLASS", help="their network, if your own")
    options = parser.parse_args(arguments)
    with exit_on_user_error():
        rows = [describe_run(run, options.extractor) for run in options.runs]
        print(f"| {' | '.join(HEADINGS)} |", "|---|" + "---:|" * len(HEADINGS[1:]), *rows, sep="\n")
    return 0


def describe_run(run: Path, extractor: str | None = None) -> str:
    """The row of a run's directory.

    Raises:
        ValueError: If it has no checkpoint or another network, or a file is damaged; one line.
    """
    directory = RunDirectory(run)
    config, checkpoint = directory.read_config(), read_newest_checkpoint(directory)
    if checkpoint is None:
        raise ValueError(f"{run} has no checkpoint; give the directory of a run.")
    agent = load_agent(checkpoint.path, None, None, torch.device("cpu"), extractor)
    layers = dict(agent.policy.named_modules())
    layer = layers.get("features_extractor.cnn.0")
    if not isinstance(layer, nn.Conv2d):
        raise ValueError(f"{run} is no A2C run with a convolution first; give one.")
    position, image = measure(layer, read_last_images(checkpoint))
    steps = int(checkpoint.path.stem)
    return f"| {config.name} | {steps:,} | {position:.3f} | {image:.3f} |"


@torch.no_grad()
def measure(layer: nn.Conv2d, images: Tensor) -> tuple[float, float]:
    """What position adds to the outputs of a convolution, and what images [B, C, H, W] add.

    Root mean squares; of the position's, each filter's mean over all places is left out.
    """
    plain = layer if type(layer) is nn.Conv2d else plain_convolution(layer)
    image = nn.functional.conv2d(
        images, plain.weight, None, plain.stride, plain.padding, plain.dilation, plain.groups
    )
    position = (layer(images) - image).mean(0)
    position -= position.mean((1, 2), keepdim=True)
    return float(position.square().mean().sqrt()), float(image.square().mean().sqrt())


if __name__ == "__main__":
    sys.exit(main())
