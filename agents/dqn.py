"""DQN as SB3 defines it, on a replay memory that stores each frame once."""

import math
from typing import Any

import numpy as np
import stable_baselines3
import torch
from stable_baselines3.common.noise import ActionNoise
from stable_baselines3.common.vec_env import VecEnv
from stable_baselines3.dqn.policies import QNetwork
from torch import Tensor
from torch.nn import functional as F

from agents.divergence import Divergence
from agents.frame_replay import FrameReplay
from agents.rollout_network import Precision
from policies.extractors import NatureCoordCNN


class DQN(stable_baselines3.DQN):
    """SB3's DQN: the same losses, gradients and updates, in less time and memory.

    Args:
        precision: Arithmetic of the networks: "fp32", or "bf16" with float32 weights.
        arguments: As for `stable_baselines3.DQN`, with a `NatureCoordCNN` as features extractor.
    """

    replay_buffer: FrameReplay  # type: ignore[assignment]

    def __init__(self, *arguments: Any, precision: Precision = "fp32", **keywords: Any) -> None:
        self.precision: Precision = precision
        keywords["replay_buffer_class"] = FrameReplay
        super().__init__(*arguments, **keywords)

    def _setup_model(self) -> None:
        super()._setup_model()
        self.policy.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def _excluded_save_params(self) -> list[str]:
        return [
            *super()._excluded_save_params(),
            "precision",
            "replay_buffer_class",
            "replay_buffer_kwargs",
        ]

    def train(self, gradient_steps: int, batch_size: int = 100) -> None:
        """Update from replayed transitions; the loss is that of `stable_baselines3.DQN.train`.

        Raises:
            Divergence: If the loss is not finite; the weights are those before that update.
        """
        self.policy.set_training_mode(True)
        optimizer = self.policy.optimizer
        self._update_learning_rate(optimizer)
        losses = []
        for _ in range(gradient_steps):
            batch = self.replay_buffer.sample(batch_size)
            with torch.no_grad():
                next_values = self._compute_q(self.q_net_target, batch.next_observations)
                best = next_values.max(dim=1, keepdim=True).values
                targets = batch.rewards + (1 - batch.dones) * self.gamma * best
            values = self._compute_q(self.q_net, batch.observations).gather(1, batch.actions)
            loss = F.smooth_l1_loss(values, targets)
            losses.append(loss.item())
            if not math.isfinite(losses[-1]):
                raise Divergence("the loss", losses[-1], self.num_timesteps)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(self.policy.parameters(), self.max_grad_norm)
            optimizer.step()
        self._n_updates += gradient_steps
        self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")
        self.logger.record("train/loss", np.mean(losses))

    def play_without_learning(self, env: VecEnv, steps: int) -> None:
        """Add at least `steps` transitions to the replay memory, acting as in training."""
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
            with torch.no_grad():
                pixels = torch.from_numpy(self._last_obs).to(self.device)
                actions = self._compute_q(self.q_net, pixels).argmax(dim=1).cpu().numpy()
        return actions, actions

    def _compute_q(self, network: QNetwork, pixels: Tensor) -> Tensor:
        """Values float32 [B, actions] of observations uint8 [B, 4, rows, columns]."""
        extractor = network.features_extractor
        assert isinstance(extractor, NatureCoordCNN)
        images = torch.empty(
            pixels.shape,
            device=pixels.device,
            dtype=torch.float32 if self.precision == "fp32" else torch.bfloat16,
            memory_format=torch.channels_last,
        )
        images.copy_(pixels).div_(255)
        with torch.autocast(
            pixels.device.type, dtype=torch.bfloat16, enabled=self.precision == "bf16"
        ):
            features = extractor.linear(extractor.cnn(images))
        return network.q_net(features.float())  # type: ignore[no-any-return]
