"""The seeds of the games: one function of (run seed, environment, game number)."""

from typing import Literal

import numpy as np

Purpose = Literal["training", "evaluation"]


def game_seed(run_seed: int, environment: int, game_number: int, purpose: Purpose) -> int:
    """The emulator's seed for one game, 0 <= seed < 2**31.

    Training seeds are even and evaluation seeds odd, so no game an agent is scored on has a seed
    that any run was trained with. Where a seed only draws the number of no-ops, as in the protocol
    `baselines`, two of them can still begin the same way.
    """
    words = np.random.SeedSequence([run_seed, environment, game_number]).generate_state(1)
    return (int(words[0]) >> 2) * 2 + (purpose == "evaluation")
