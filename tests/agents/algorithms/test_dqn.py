import math

import numpy as np
import pytest
import stable_baselines3
import torch
from stable_baselines3.common import buffers

from agents.algorithms.build import extractor_arguments
from agents.algorithms.divergence import Divergence
from agents.algorithms.dqn import DQN
from agents.algorithms.replay_buffer import Places, ReplayBuffer
from tests.agents.algorithms.differences import largest_difference, learn_alike
from tests.random_frames import NETWORKS, RandomFrames


class PlainReplay(ReplayBuffer):
    """SB3's own buffer with its own draws, behind the methods of this project's."""

    def __init__(self, model):
        self.device = model.device
        self.plain = buffers.ReplayBuffer(
            60, model.observation_space, model.action_space, model.device
        )

    def add(self, *transition):
        self.plain.add(*transition)

    def draw(self, batch_size):
        upper = self.plain.buffer_size if self.plain.full else self.plain.pos
        numbers = np.random.randint(0, upper, size=batch_size)  # noqa: NPY002  # as SB3 draws
        return Places(numbers, np.zeros(batch_size, int))

    def foresee(self, batch_size, steps):
        return None  # actions are drawn from the same generator

    def gather(self, numbers, environments):
        return self.plain._get_samples(numbers)


def make(algorithm, arm: str, n_envs: int = 1, device="cpu", seed=1, **arguments):
    return algorithm(
        "CnnPolicy",
        RandomFrames(n_envs),
        buffer_size=60,
        learning_starts=20,
        batch_size=8,
        train_freq=4,
        target_update_interval=12,
        exploration_fraction=0.5,
        exploration_final_eps=0.3,
        learning_rate=1e-4,
        max_grad_norm=10,
        seed=seed,
        device=device,
        policy_kwargs=extractor_arguments(NETWORKS[arm]),
        **arguments,
    )


@pytest.mark.parametrize("arm", NETWORKS)
def test_learns_what_sb3_learns(arm):
    """Same seed, same stream, SB3's own buffer: equal actions, losses and weights."""
    ours, theirs = learn_alike(lambda seed: learn_beside_sb3(arm, seed))
    assert ours.logger.name_to_value["train/loss"] == pytest.approx(
        theirs.logger.name_to_value["train/loss"], rel=1e-3
    )
    assert math.isfinite(ours.logger.name_to_value["train/q_mean"])


def learn_beside_sb3(arm: str, seed: int) -> tuple[float, DQN, stable_baselines3.DQN]:
    """The difference of what they learned, this project's agent and SB3's."""
    ours = make(DQN, arm, seed=seed)
    ours.replay_buffer = PlainReplay(ours)
    ours.learn(60, log_interval=None)
    generator_state = torch.get_rng_state()
    theirs = make(stable_baselines3.DQN, arm, seed=seed).learn(60, log_interval=None)

    assert torch.equal(generator_state, torch.get_rng_state())
    assert (ours.replay_buffer.plain.actions == theirs.replay_buffer.actions).all()
    assert len(set(theirs.replay_buffer.actions.flatten())) > 1
    assert ours._n_updates == theirs._n_updates == 10
    start = make(stable_baselines3.DQN, arm, seed=seed)
    return largest_difference(ours.q_net, theirs.q_net, start.q_net), ours, theirs


@pytest.mark.parametrize("arm", NETWORKS)
def test_the_first_gradient_is_sb3s(arm):
    """One update on the same batch, before any rounding can reach the weights."""
    gradients = []
    for algorithm in (DQN, stable_baselines3.DQN):
        agent = make(algorithm, arm)
        if algorithm is DQN:
            agent.replay_buffer = PlainReplay(agent)
        agent.learn(24, log_interval=None)
        assert agent._n_updates == 1
        gradients.append({name: p.grad for name, p in agent.q_net.named_parameters()})
    for name, expected in gradients[1].items():
        difference = torch.linalg.vector_norm(gradients[0][name] - expected)
        assert difference < 1e-5 * torch.linalg.vector_norm(expected), name


def test_bf16_gradients_point_where_fp32_gradients_point():
    """Cosine of the two gradients of one update on the same batch."""
    flat = {}
    for precision in ("fp32", "bf16"):
        model = make(DQN, "coordconv", precision=precision)
        model.replay_buffer = PlainReplay(model)
        model.learn(24, log_interval=None)
        assert model._n_updates == 1
        parameters = model.q_net.parameters()
        flat[precision] = torch.cat([p.grad.flatten() for p in parameters])
    cosine = torch.nn.functional.cosine_similarity(flat["fp32"], flat["bf16"], dim=0)
    assert 0.99 < cosine < 1.0


def test_a_loss_that_is_not_finite_stops_before_the_weights_change():
    model = make(DQN, "cnn")
    model.replay_buffer = PlainReplay(model)
    model.learn(20, log_interval=None)
    with torch.no_grad():
        model.q_net.q_net[0].bias.fill_(float("nan"))
    before = model.q_net.q_net[0].weight.clone()
    message = "diverged at 20 agent steps: the loss is nan; try a smaller learning_rate."
    with pytest.raises(Divergence, match=f"^{message}$"):
        model.train(gradient_steps=1, batch_size=8)
    assert torch.equal(model.q_net.q_net[0].weight, before)
