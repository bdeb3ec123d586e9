"""DQN as SB3 defines it."""

import math

import stable_baselines3

from agents.divergence import Divergence


class DQN(stable_baselines3.DQN):
    """SB3's DQN that stops at a loss that is not finite."""

    def train(self, gradient_steps: int, batch_size: int = 100) -> None:
        """Update from replayed transitions.

        Raises:
            Divergence: If the loss is not finite.
        """
        super().train(gradient_steps, batch_size)
        value = self.logger.name_to_value["train/loss"]
        if not math.isfinite(value):
            raise Divergence("train/loss", value, self.num_timesteps)
