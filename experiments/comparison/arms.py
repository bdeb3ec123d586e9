"""Arms by name: from `coordconv-all-r` back to the settings of a network."""

import re

from configs.run_config import CONVOLUTIONS, NetworkSettings, arm_name
from configs.settings import build, load_preset

BASELINE = "cnn"
_NAME = re.compile(
    r"(?P<position>coordconv|bias-map|random-channels)"
    r"(?:-(?:(?P<all>all)|layer(?P<layers>[0-9]+)))?(?P<radius>-r)?(?P<zero>-zero)?"
)


def parse_arm(name: str) -> NetworkSettings:
    """The network that `configs.run_config.arm_name` gives this name.

    Raises:
        ValueError: If no network has it; one line.
    """
    values = load_preset("run")["network"]
    match = _NAME.fullmatch(name)
    if match is not None:
        if match["position"] != "coordconv":
            values["position"] = match["position"]
        layers = range(CONVOLUTIONS) if match["all"] else map(int, match["layers"] or "0")
        values["coord_layers"] = list(layers)
        values["with_radius"] = match["radius"] is not None
        values["coord_init"] = "zero" if match["zero"] else "default"
    if match is not None or name == BASELINE:
        network = build(NetworkSettings, values, f"--arms {name}")
        if arm_name(network) == name:
            return network
    raise ValueError(
        f"--arms: unknown arm {name!r}; use cnn, coordconv, coordconv-all, bias-map or "
        "random-channels, with -r for the radius, -zero for coordinate weights that start at 0."
    )
