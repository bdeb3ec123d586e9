"""DQN as SB3 defines it, on a replay buffer that stores each frame once."""

import math
from typing import Any

import numpy as np
import stable_baselines3
import torch
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.noise import ActionNoise
from stable_baselines3.common.type_aliases import RolloutReturn, TrainFreq
from stable_baselines3.common.vec_env import VecEnv
from stable_baselines3.dqn.policies import QNetwork
from torch import Tensor
from torch.nn import functional as F

from agents.algorithms.cached_network import CachedNetwork, Precision
from agents.algorithms.device import to_device
from agents.algorithms.divergence import Divergence
from agents.algorithms.prefetch import Prefetch
from agents.algorithms.replay_buffer import ReplayBuffer
from policies.extractors import NatureCoordCNN


class DQN(stable_baselines3.DQN):
    """SB3's DQN: the same losses, gradients and updates, in less time and memory.

    The weights are read once for acting and learning (`CachedNetwork`), so only updates may
    change them within a `learn`; and the target values of an update are computed while the agent
    acts (`agents.algorithms.prefetch`).

    Args:
        precision: Arithmetic of the networks: "fp32", or "bf16" with float32 weights.
        arguments: As for `stable_baselines3.DQN`, with a `NatureCoordCNN` as features extractor.
    """

    replay_buffer: ReplayBuffer  # type: ignore[assignment]

    def __init__(self, *arguments: Any, precision: Precision = "fp32", **keywords: Any) -> None:
        self.precision: Precision = precision
        keywords["replay_buffer_class"] = ReplayBuffer
        super().__init__(*arguments, **keywords)

    def _setup_model(self) -> None:
        super()._setup_model()
        self.policy.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._network, self._target_network = (
            CachedNetwork(_extractor_of(network), self.batch_size, self.precision)
            for network in (self.q_net, self.q_net_target)
        )

    def _excluded_save_params(self) -> list[str]:
        return [
            *super()._excluded_save_params(),
            "_batches",
            "_network",
            "_target_network",
            "_target_weights",
            "_weights",
            "precision",
            "replay_buffer_class",
            "replay_buffer_kwargs",
        ]

    def _setup_learn(self, *arguments: Any, **keywords: Any) -> tuple[int, BaseCallback]:
        result = super()._setup_learn(*arguments, **keywords)
        self._read_anew()
        return result

    def _read_anew(self) -> None:
        """Read all weights, which may have been set from outside."""
        self._weights = self._network.read_weights()
        self._batches = Prefetch(self.replay_buffer, self._compute_target_values)
        self._read_target_weights()

    @torch.no_grad()
    def _read_target_weights(self) -> None:
        with self._batches.one_thread():  # always, so that the bits do not depend on a resume
            self._target_weights = self._target_network.read_weights()

    @torch.no_grad()
    def _compute_target_values(self, observations: Tensor) -> Tensor:
        """The target network's highest values [B, 1] of observations uint8 [B, 4, H, W]."""
        features = self._target_network.compute(self._target_weights, observations, first_kept=0)
        values: Tensor = self.q_net_target.q_net(features)
        return values.max(dim=1, keepdim=True).values

    def collect_rollouts(self, *arguments: Any, **keywords: Any) -> RolloutReturn:
        """Act and store, as SB3 does, while the next update's target values are computed."""
        assert isinstance(self.train_freq, TrainFreq)
        steps = self.train_freq.frequency
        with self._batches.one_thread():
            if self.num_timesteps + steps * self.n_envs > self.learning_starts:
                self._batches.begin(self.batch_size, steps)
            return super().collect_rollouts(*arguments, **keywords)

    def _on_step(self) -> None:
        changes_target = (self._n_calls + 1) % self._steps_between_target_updates == 0
        if changes_target:
            self._batches.forget()
        super()._on_step()
        if changes_target:
            self._read_target_weights()

    @property
    def _steps_between_target_updates(self) -> int:
        """In steps of all environments, as in `stable_baselines3.DQN._on_step`."""
        return max(self.target_update_interval // self.n_envs, 1)

    def train(self, gradient_steps: int, batch_size: int = 100) -> None:
        """Update from replayed transitions; the loss is that of `stable_baselines3.DQN.train`.

        Raises:
            Divergence: If the loss is not finite; the weights are those before that update.
            ValueError: If the batch size is not that of the agent.
        """
        if batch_size != self.batch_size:
            raise ValueError(
                f"`batch_size` must be the agent's own, {self.batch_size}, got {batch_size}."
            )
        optimizer = self.policy.optimizer
        self._update_learning_rate(optimizer)
        losses = []
        for _ in range(gradient_steps):
            batch, next_values = self._batches.take(batch_size)
            targets = batch.rewards + (1 - batch.dones) * self.gamma * next_values
            loss = self._differentiate(batch.observations, batch.actions, targets)
            losses.append(loss.item())
            if not math.isfinite(losses[-1]):
                raise Divergence("the loss", losses[-1], self.num_timesteps)
            torch.nn.utils.clip_grad_norm_(self.policy.parameters(), self.max_grad_norm)
            optimizer.step()
            self._weights = self._network.read_weights()
        self._n_updates += gradient_steps
        self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")
        self.logger.record("train/loss", np.mean(losses))

    def _differentiate(self, observations: Tensor, actions: Tensor, targets: Tensor) -> Tensor:
        """The loss of a batch; leaves its gradient behind."""
        self._network.compute(self._weights, observations, first_kept=0)
        values = self.q_net.q_net(self._network.features(self._weights)).gather(1, actions)
        loss = F.smooth_l1_loss(values, targets)
        self.policy.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss.detach()

    def play_without_learning(self, env: VecEnv, steps: int) -> None:
        """Add at least `steps` transitions to the replay buffer, acting as in training."""
        self._read_anew()
        for _ in range(-(-steps // env.num_envs)):
            actions, _ = self._sample_action(learning_starts=0, n_envs=env.num_envs)
            observations, rewards, dones, infos = env.step(actions)
            self._store_transition(
                self.replay_buffer,  # type: ignore[arg-type]
                actions,
                observations,  # type: ignore[arg-type]
                rewards,
                dones,
                infos,
            )

    def _sample_action(
        self,
        learning_starts: int,
        action_noise: ActionNoise | None = None,
        n_envs: int = 1,
    ) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
        """Act at random or greedily, with the same draws as SB3."""
        assert action_noise is None
        warming_up = self.num_timesteps < learning_starts
        if warming_up or np.random.rand() < self.exploration_rate:  # noqa: NPY002  # as SB3 draws
            actions = np.array([self.action_space.sample() for _ in range(n_envs)])
        else:
            assert isinstance(self._last_obs, np.ndarray)
            actions = self._choose_best(self._last_obs)
        return actions, actions

    @torch.no_grad()
    def _choose_best(self, observations: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """The actions [B] of the highest values."""
        features = self._network.compute(self._weights, to_device(observations, self.device))
        best: Tensor = self.q_net.q_net(features).argmax(dim=1)
        return best.cpu().numpy()


def _extractor_of(network: QNetwork) -> NatureCoordCNN:
    assert isinstance(network.features_extractor, NatureCoordCNN)
    return network.features_extractor
