"""A2C as SB3 defines it."""

import math

import stable_baselines3

from agents.divergence import Divergence


class A2C(stable_baselines3.A2C):
    """SB3's A2C that stops at a loss that is not finite."""

    def train(self) -> None:
        """One update from the rollout buffer.

        Raises:
            Divergence: If a loss is not finite.
        """
        super().train()
        for name in ("train/policy_loss", "train/value_loss"):
            value = self.logger.name_to_value[name]
            if not math.isfinite(value):
                raise Divergence(name, value, self.num_timesteps)
