"""A2C as SB3 defines it, with each observation passed through the network once."""

import math
from typing import Any, NamedTuple

import numpy as np
import stable_baselines3
import torch
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.utils import explained_variance
from stable_baselines3.common.vec_env import VecEnv
from torch import Tensor
from torch.nn import functional as F

from agents.algorithms.cached_network import CachedNetwork, Precision, Weights
from agents.algorithms.device import to_device
from agents.algorithms.divergence import Divergence
from policies.extractors import NatureCoordCNN


class _Losses(NamedTuple):
    policy: Tensor
    value: Tensor
    entropy: Tensor
    whole: Tensor


class A2C(stable_baselines3.A2C):
    """SB3's A2C: the same losses, gradients and updates, in less time.

    The rollout's activations are kept and used again in the update (`CachedNetwork`).
    Like SB3's it draws actions from torch's global generator. The rollout buffer's observations
    and log-probabilities are not filled, as nothing reads them.

    Args:
        precision: Arithmetic of the network: "fp32", or "bf16" with float32 weights and heads.
        arguments: As for `stable_baselines3.A2C`, with a `NatureCoordCNN` as features extractor
            and a discrete action space.
    """

    def __init__(self, *arguments: Any, precision: Precision = "fp32", **keywords: Any) -> None:
        self.precision: Precision = precision
        super().__init__(*arguments, **keywords)

    def _setup_model(self) -> None:
        super()._setup_model()
        self.policy.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        extractor = self.policy.features_extractor
        assert isinstance(extractor, NatureCoordCNN)
        self._network = CachedNetwork(extractor, self.n_steps * self.n_envs, self.precision)
        self._weights: Weights = []  # those of the rollout

    def _excluded_save_params(self) -> list[str]:
        return [
            *super()._excluded_save_params(),
            "_network",
            "_weights",
            "precision",
        ]

    def collect_rollouts(
        self,
        env: VecEnv,
        callback: BaseCallback,
        rollout_buffer: RolloutBuffer,
        n_rollout_steps: int,
    ) -> bool:
        """Play `n_rollout_steps` in every environment; see SB3."""
        assert isinstance(self._last_obs, np.ndarray)
        rollout_buffer.reset()
        callback.on_rollout_start()
        self._weights = self._network.read_weights()  # with gradient: the update starts from them
        for step in range(n_rollout_steps):
            with torch.no_grad():
                logits, values = self._score(self._last_obs, step * env.num_envs)
                # What torch.distributions.Categorical, SB3's choice, does to sample.
                actions = torch.multinomial(F.softmax(logits, dim=1), 1, replacement=True)
            action_array = actions.cpu().numpy()
            new_obs, rewards, dones, infos = env.step(action_array[:, 0])
            self.num_timesteps += env.num_envs
            callback.update_locals(locals())
            if not callback.on_step():
                return False
            self._update_info_buffer(infos, dones)
            for index in np.flatnonzero(dones):
                # A game cut off by the time limit would have gone on: add the value of its end.
                if infos[index].get("TimeLimit.truncated", False):
                    terminal = infos[index]["terminal_observation"][None]
                    rewards[index] += self.gamma * self._score(terminal)[1][0]
            rollout_buffer.actions[step] = action_array
            rollout_buffer.rewards[step] = rewards
            rollout_buffer.episode_starts[step] = self._last_episode_starts
            rollout_buffer.values[step] = values.cpu().numpy()
            assert isinstance(new_obs, np.ndarray)
            self._last_obs = new_obs
            self._last_episode_starts = dones
        rollout_buffer.compute_returns_and_advantage(self._score(self._last_obs)[1], dones)
        callback.update_locals(locals())
        callback.on_rollout_end()
        return True

    def train(self) -> None:
        """One update from the rollout; the losses are those of `stable_baselines3.A2C.train`.

        Raises:
            Divergence: If the loss is not finite; the weights are those before the update.
        """
        optimizer = self.policy.optimizer
        self._update_learning_rate(optimizer)
        buffer = self.rollout_buffer
        losses = self._differentiate(
            *(
                to_device(values.reshape(-1), self.device)
                for values in (buffer.actions, buffer.advantages, buffer.returns)
            )
        )
        if not math.isfinite(loss_value := losses.whole.item()):
            raise Divergence("the loss", loss_value, self.num_timesteps)
        torch.nn.utils.clip_grad_norm_(self.policy.parameters(), self.max_grad_norm)
        optimizer.step()

        self._n_updates += 1
        record = self.logger.record
        record("train/n_updates", self._n_updates, exclude="tensorboard")
        record(
            "train/explained_variance",
            explained_variance(buffer.values.flatten(), buffer.returns.flatten()),
        )
        record("train/entropy_loss", losses.entropy.item())
        record("train/policy_loss", losses.policy.item())
        record("train/value_loss", losses.value.item())

    def _differentiate(self, actions: Tensor, advantages: Tensor, returns: Tensor) -> _Losses:
        """The losses of the rollout, [T * N] step after step; leaves their gradients behind."""
        if self.normalize_advantage:
            advantages = (advantages - advantages.mean()) / (advantages.std() + 1e-8)
        logits, values = self._evaluate(self._network.features(self._weights))
        log_probabilities = F.log_softmax(logits, dim=1)
        log_probability = log_probabilities.gather(1, actions.long()[:, None])[:, 0]
        policy_loss = -(advantages * log_probability).mean()
        value_loss = F.mse_loss(returns, values)
        entropy_loss = (log_probabilities.exp() * log_probabilities).sum(1).mean()
        loss = policy_loss + self.ent_coef * entropy_loss + self.vf_coef * value_loss
        self.policy.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        return _Losses(*(each.detach() for each in (policy_loss, value_loss, entropy_loss, loss)))

    def _evaluate(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Action logits [B, actions] and values [B] of features [B, F]."""
        latent_policy, latent_value = self.policy.mlp_extractor(features)
        return self.policy.action_net(latent_policy), self.policy.value_net(latent_value)[:, 0]

    @torch.no_grad()
    def _score(
        self, observations: np.ndarray[Any, Any], first_kept: int | None = None
    ) -> tuple[Tensor, Tensor]:
        """Action logits [B, actions] and values [B] of observations, with the rollout's weights.

        `first_kept` is where their activations are kept for the update, or None.
        """
        pixels = to_device(observations, self.device)
        return self._evaluate(self._network.compute(self._weights, pixels, first_kept))
