"""DQN as SB3 defines it, on a replay buffer that stores each frame once."""

import math
from typing import Any

import numpy as np
import stable_baselines3
import torch
from stable_baselines3.common.noise import ActionNoise
from stable_baselines3.common.type_aliases import GymEnv, RolloutReturn, TrainFreq
from stable_baselines3.common.vec_env import VecEnv, VecNormalize, unwrap_vec_normalize
from stable_baselines3.dqn.policies import CnnPolicy, DQNPolicy, QNetwork
from torch import Tensor, nn
from torch.nn import functional as F

from agents.algorithms.cached_network import CachedNetwork
from agents.algorithms.device import to_device
from agents.algorithms.divergence import Divergence
from agents.algorithms.fast_path import FastPath, find_obstacle_in
from agents.algorithms.prefetch import Prefetch
from agents.algorithms.replay_buffer import ReplayBuffer


class DQN(FastPath, stable_baselines3.DQN):
    """SB3's DQN: the same losses, gradients and updates, in less time and memory.

    The weights are read once for acting and learning (`CachedNetwork`), so only updates may
    change them within a rollout; and the target values of an update are computed while the agent
    acts (`agents.algorithms.prefetch`). That is for SB3's own policies on a `NatureCoordCNN` and
    this project's `ReplayBuffer`; any other agent is SB3's (see `FastPath`).

    Without a `replay_buffer_class`, the buffer is this project's `ReplayBuffer` where it can hold
    what is asked, and otherwise SB3's.
    """

    replay_buffer: ReplayBuffer  # or SB3's, if that is asked for
    _target_network: CachedNetwork | None = None
    _batches: Prefetch | None = None
    _kept = ("_network", "_target_network", "_batches")

    def _setup_model(self) -> None:
        if self.replay_buffer_class is None and not (
            self.replay_buffer_kwargs
            or self.n_steps > 1
            or self.optimize_memory_usage
            or self._vec_normalize_env
            or ReplayBuffer.find_obstacle(self.observation_space, self.action_space)
        ):
            self.replay_buffer_class = ReplayBuffer
        if self.replay_buffer_class is ReplayBuffer:
            if self.n_steps > 1:
                raise ValueError(
                    f"`n_steps` must be 1 with this `replay_buffer_class`, got {self.n_steps}; "
                    "leave out the class."
                )
            _refuse_normalization(self._vec_normalize_env)
        super()._setup_model()

    def set_env(self, env: GymEnv, force_reset: bool = True) -> None:
        """Set the environment, as SB3 does.

        Raises:
            ValueError: If it is normalised, and the replay buffer can hold frames alone.
        """
        if isinstance(self.replay_buffer, ReplayBuffer) and isinstance(env, VecEnv):
            _refuse_normalization(unwrap_vec_normalize(env))
        super().set_env(env, force_reset)

    def find_obstacle(self) -> str | None:
        """Name what the fast path cannot do; None if it applies."""
        if type(self.policy) not in (DQNPolicy, CnnPolicy):
            return f"`policy` {type(self.policy).__name__}"
        if type(self).predict is not stable_baselines3.DQN.predict:
            return f"`predict` of {type(self).__name__}"
        buffer = type(self.replay_buffer)
        if not issubclass(buffer, ReplayBuffer) or buffer.sample is not ReplayBuffer.sample:
            return f"`replay_buffer_class` {buffer.__name__}"
        for network in (self.q_net, self.q_net_target):
            if type(network) is not QNetwork:
                return f"the Q-network {type(network).__name__}"
            if obstacle := find_obstacle_in(network, network.features_extractor):
                return obstacle
        return None

    def _extractor(self) -> nn.Module:
        return self.q_net.features_extractor

    def _make_networks(self) -> None:
        self._network, self._target_network = (
            CachedNetwork(network.features_extractor, self.batch_size, self.precision)
            for network in (self.q_net, self.q_net_target)
        )
        self._batches = Prefetch(self.replay_buffer, self._compute_target_values)
        self._read_target_weights()

    def _excluded_save_params(self) -> list[str]:
        names = super()._excluded_save_params()
        if self.replay_buffer_class is ReplayBuffer:  # plain SB3, which may open the file, has none
            names += ["replay_buffer_class", "replay_buffer_kwargs"]
        return names

    @torch.no_grad()
    def _read_target_weights(self) -> None:
        assert self._batches is not None
        assert self._target_network is not None
        with self._batches.one_thread():  # always, so that the bits do not depend on a resume
            self._target_network.read_weights()

    @torch.no_grad()
    def _compute_target_values(self, observations: Tensor) -> Tensor:
        """The target network's highest values [B, 1] of observations uint8 [B, 4, H, W]."""
        assert self._target_network is not None
        features = self._target_network.compute(observations, first_kept=0)
        values: Tensor = self.q_net_target.q_net(features)
        return values.max(dim=1, keepdim=True).values

    def collect_rollouts(self, *arguments: Any, **keywords: Any) -> RolloutReturn:
        """Act and store, as SB3 does, while the next update's target values are computed."""
        if not self._is_fast():
            return super().collect_rollouts(*arguments, **keywords)
        assert self._network is not None
        assert self._batches is not None
        assert isinstance(self.train_freq, TrainFreq)
        self._network.read_weights()  # with gradient: the update starts from them
        steps = self.train_freq.frequency
        with self._batches.one_thread():
            if self.num_timesteps + steps * self.n_envs > self.learning_starts:
                self._batches.begin(self.batch_size, steps)
            return super().collect_rollouts(*arguments, **keywords)

    def _on_step(self) -> None:
        steps_between = max(self.target_update_interval // self.n_envs, 1)  # as SB3 counts
        changes_target = (self._n_calls + 1) % steps_between == 0
        if changes_target and self._batches is not None:
            self._batches.forget()
        super()._on_step()
        if changes_target and self._batches is not None:
            self._read_target_weights()

    def train(self, gradient_steps: int, batch_size: int = 100) -> None:
        """Update from replayed transitions; the loss is that of `stable_baselines3.DQN.train`.

        Raises:
            Divergence: If the loss is not finite; the weights are those before that update.
            ValueError: If the batch size is not that of the agent.
        """
        if not self._is_fast():
            super().train(gradient_steps, batch_size)
            return
        assert self._network is not None
        assert self._batches is not None
        if batch_size != self.batch_size:
            raise ValueError(
                f"`batch_size` must be the agent's own, {self.batch_size}, got {batch_size}."
            )
        self.policy.set_training_mode(True)
        optimizer = self.policy.optimizer
        self._update_learning_rate(optimizer)
        losses, q_means = [], []
        for _ in range(gradient_steps):
            if not self._network.has_weights:
                self._network.read_weights()
            batch, next_values = self._batches.take(batch_size)
            targets = batch.rewards + (1 - batch.dones) * self.gamma * next_values
            self._network.compute(batch.observations, first_kept=0)
            values = self.q_net.q_net(self._network.features())
            loss = F.smooth_l1_loss(values.gather(1, batch.actions), targets)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            losses.append(loss.item())
            q_means.append(values.detach().mean().item())
            if not math.isfinite(losses[-1]):
                raise Divergence("the loss", losses[-1], self.num_timesteps)
            nn.utils.clip_grad_norm_(self.policy.parameters(), self.max_grad_norm)
            optimizer.step()
        self._n_updates += gradient_steps
        self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")
        self.logger.record("train/loss", np.mean(losses))
        self.logger.record("train/q_mean", np.mean(q_means))

    def play_without_learning(self, env: VecEnv, steps: int) -> None:
        """Add at least `steps` transitions to the replay buffer, acting as in training."""
        self._forget()
        if self._is_fast() and self._network is not None:
            self._network.read_weights()
        for _ in range(-(-steps // env.num_envs)):
            actions, _ = self._sample_action(learning_starts=0, n_envs=env.num_envs)
            observations, rewards, dones, infos = env.step(actions)
            self._store_transition(
                self.replay_buffer,
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
        if self._network is None:
            return super()._sample_action(learning_starts, action_noise, n_envs)
        warming_up = self.num_timesteps < learning_starts
        if warming_up or np.random.rand() < self.exploration_rate:  # noqa: NPY002  # as SB3 draws
            actions = np.array([self.action_space.sample() for _ in range(n_envs)])
        else:
            assert isinstance(self._last_obs, np.ndarray)
            actions = self._choose_best(self._network, self._last_obs)
        return actions, actions

    @torch.no_grad()
    def _choose_best(
        self, network: CachedNetwork, observations: np.ndarray[Any, Any]
    ) -> np.ndarray[Any, Any]:
        """The actions [B] of the highest values."""
        features = network.compute(to_device(observations, self.device))
        best: Tensor = self.q_net.q_net(features).argmax(dim=1)
        return best.cpu().numpy()


def _refuse_normalization(env: VecNormalize | None) -> None:
    if env is not None:
        raise ValueError(
            "`env` is a VecNormalize, and this replay buffer holds frames as they are; give the "
            "agent `replay_buffer_class=stable_baselines3.common.buffers.ReplayBuffer`."
        )
