"""A2C as SB3 defines it, with each observation passed through the network once."""

import math
from typing import Any

import numpy as np
import stable_baselines3
import torch
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.distributions import CategoricalDistribution
from stable_baselines3.common.policies import ActorCriticCnnPolicy, ActorCriticPolicy
from stable_baselines3.common.utils import explained_variance
from stable_baselines3.common.vec_env import VecEnv
from torch import Tensor, nn
from torch.nn import functional as F

from agents.algorithms.cached_network import CachedNetwork
from agents.algorithms.device import to_device
from agents.algorithms.divergence import Divergence
from agents.algorithms.fast_path import FastPath, find_obstacle_in


class A2C(FastPath, stable_baselines3.A2C):
    """SB3's A2C: the same losses, gradients and updates, in less time.

    The rollout's activations are kept and used again in the update (`CachedNetwork`).
    Like SB3's it draws actions from torch's global generator. The rollout buffer's observations
    and log-probabilities are not filled, as nothing reads them. That is for SB3's own policies on a
    `NatureCoordCNN` and discrete actions; any other agent is SB3's (see `FastPath`).
    """

    def find_obstacle(self) -> str | None:
        """Name what the fast path cannot do; None if it applies."""
        policy = self.policy
        if type(policy) not in (ActorCriticPolicy, ActorCriticCnnPolicy):
            return f"`policy` {type(policy).__name__}"
        if not policy.share_features_extractor:
            return "`share_features_extractor` False"
        if type(self.rollout_buffer) is not RolloutBuffer:
            return f"`rollout_buffer_class` {type(self.rollout_buffer).__name__}"
        if type(policy.action_dist) is not CategoricalDistribution:
            return f"actions drawn from a {type(policy.action_dist).__name__}"
        return find_obstacle_in(policy, policy.features_extractor)

    def _extractor(self) -> nn.Module:
        return self.policy.features_extractor

    def _make_networks(self) -> None:
        kept = self.n_steps * self.n_envs
        self._network = CachedNetwork(self.policy.features_extractor, kept, self.precision)

    def collect_rollouts(
        self,
        env: VecEnv,
        callback: BaseCallback,
        rollout_buffer: RolloutBuffer,
        n_rollout_steps: int,
    ) -> bool:
        """Play `n_rollout_steps` in every environment; see SB3."""
        if not self._is_fast():
            return super().collect_rollouts(env, callback, rollout_buffer, n_rollout_steps)
        assert isinstance(self._last_obs, np.ndarray)
        assert self._network is not None
        self.policy.set_training_mode(False)
        rollout_buffer.reset()
        callback.on_rollout_start()
        self._network.read_weights()  # with gradient: the update starts from them
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
                terminal = infos[index].get("terminal_observation")
                if terminal is not None and infos[index].get("TimeLimit.truncated", False):
                    rewards[index] += self.gamma * self._score(terminal[None])[1][0]
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
            ValueError: If there is no rollout.
        """
        if self._network is None or not self._network.has_weights:
            if not self.rollout_buffer.full:  # the fast path leaves it so
                raise ValueError("`train` needs a new rollout; call `learn`.")
            super().train()
            return
        self.policy.set_training_mode(True)
        optimizer = self.policy.optimizer
        self._update_learning_rate(optimizer)
        buffer = self.rollout_buffer
        actions, advantages, returns = (
            to_device(values.reshape(-1), self.device)  # step after step
            for values in (buffer.actions, buffer.advantages, buffer.returns)
        )
        if self.normalize_advantage:
            advantages = (advantages - advantages.mean()) / (advantages.std() + 1e-8)
        logits, values = self._evaluate(self._network.features())
        log_probabilities = F.log_softmax(logits, dim=1)
        log_probability = log_probabilities.gather(1, actions.long()[:, None])[:, 0]
        policy_loss = -(advantages * log_probability).mean()
        value_loss = F.mse_loss(returns, values)
        entropy_loss = (log_probabilities.exp() * log_probabilities).sum(1).mean()
        loss = policy_loss + self.ent_coef * entropy_loss + self.vf_coef * value_loss
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        if not math.isfinite(loss_value := loss.item()):
            raise Divergence("the loss", loss_value, self.num_timesteps)
        norm = nn.utils.clip_grad_norm_(self.policy.parameters(), self.max_grad_norm)
        optimizer.step()

        self._n_updates += 1
        record = self.logger.record
        record("train/n_updates", self._n_updates, exclude="tensorboard")
        record(
            "train/explained_variance",
            explained_variance(buffer.values.flatten(), buffer.returns.flatten()),
        )
        record("train/entropy_loss", entropy_loss.item())
        record("train/policy_loss", policy_loss.item())
        record("train/value_loss", value_loss.item())
        record("train/gradient_norm", norm.item())

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
        assert self._network is not None
        pixels = to_device(observations, self.device)
        return self._evaluate(self._network.compute(pixels, first_kept))
