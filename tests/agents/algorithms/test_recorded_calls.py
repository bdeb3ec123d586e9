"""Acting and learning from recorded operations, beside acting and learning from Python.

A machine without GPU cannot record a CUDA graph. `record_on_cpu` stands in for it: it notes every
operation that a call starts, with the tensors it was given, and repeats them without running any
Python of the agents. What would go wrong in a CUDA graph goes wrong there too: an input that moved,
a result used after it was overwritten, a number that was frozen, values that the host asks for or
sends. What it cannot see: streams, tensors that were freed, and that `cpu` or `tolist` would wait.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import agents.algorithms.recorded_calls
from agents.algorithms.a2c import A2C
from agents.algorithms.dqn import DQN
from agents.algorithms.recorded_calls import RecordedCalls
from tests.agents.algorithms.test_a2c import make as make_a2c
from tests.agents.algorithms.test_dqn import PlainReplay
from tests.agents.algorithms.test_dqn import make as make_dqn
from tests.random_frames import NETWORKS
from tests.short_runs import short_config, train

ON_HOST = {
    torch.ops.aten._local_scalar_dense,
    torch.ops.aten.nonzero,
    torch.ops.aten.index,
    torch.ops.aten.equal,
    torch.ops.aten.allclose,
    torch.ops.aten.lift_fresh,
}
CPU = torch.device("cpu")


class Operations(TorchDispatchMode):
    """Notes the operations that are started within."""

    def __init__(self):
        super().__init__()
        self.noted: list[tuple[Any, tuple[Any, ...], dict[str, Any], Any]] = []

    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
        if function.overloadpacket in ON_HOST:
            raise RuntimeError("operation not permitted when stream is capturing")
        result = function(*arguments, **(keywords or {}))
        self.noted.append((function, arguments, keywords or {}, result))
        return result

    def replay(self):
        for function, arguments, keywords, noted in self.noted:
            result = function(*arguments, **keywords)
            for before, now in zip(tree_leaves(noted), tree_leaves(result), strict=True):
                if isinstance(before, Tensor) and before.data_ptr() != now.data_ptr():
                    before.copy_(now)


def record_on_cpu(function: Callable[[], Any]) -> tuple[Any, Callable[[], None]]:
    for _ in range(2):
        function()
    operations = Operations()
    with operations:
        result = function()
    for leaf in tree_leaves(result):
        if isinstance(leaf, Tensor):
            assert leaf.grad_fn is None, "a result would keep autograd's nodes alive"

    def replay() -> None:
        with torch.no_grad():
            operations.replay()

    return result, replay


@pytest.fixture
def recording(monkeypatch):
    monkeypatch.setattr(agents.algorithms.recorded_calls, "Recorder", lambda device: record_on_cpu)


def test_a_recorded_call_follows_what_is_held_and_runs_no_python_again(recording):
    calls = RecordedCalls(True, CPU)
    python_ran = 0

    def double(values: Tensor) -> Tensor:
        nonlocal python_ran
        python_ran += 1
        return values * 2

    results = []
    for number in (1.0, 2.0, 3.0):
        values = calls.hold("values", torch.full((2,), number))
        results.append(calls.run("double", partial(double, values)))
        assert results[-1].tolist() == [2 * number, 2 * number]
    assert python_ran == 3  # two to warm up, one to record
    assert results[0] is results[2]


@pytest.mark.parametrize(
    "function",
    [
        lambda values: values.sum().item(),
        lambda values: bool(values.any()),
        lambda values: torch.equal(values, values),
        lambda values: values[values > 0],
        lambda values: values + torch.tensor([1.0, 2.0]),
    ],
)
def test_what_the_host_asks_for_or_sends_cannot_be_recorded(function, recording):
    with pytest.raises(RuntimeError, match="not permitted when stream is capturing"):
        RecordedCalls(True, CPU).run("ask", partial(function, torch.ones(2)))


def test_unrecorded_calls_are_made_every_time():
    calls = RecordedCalls(False, CPU)
    values = torch.ones(2)
    assert calls.hold("values", values) is values
    numbers = iter(range(3))
    assert [calls.run("count", numbers.__next__) for _ in range(3)] == [0, 1, 2]


@pytest.mark.parametrize("arm", NETWORKS)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a2c_learns_the_same_from_recorded_calls(arm, precision, recording):
    """Over four updates, with truncated episodes, whose values are asked for apart."""
    trained = []
    for cuda_graphs in (False, True):
        agent = make_a2c(A2C, NETWORKS[arm], precision=precision, cuda_graphs=cuda_graphs)
        trained.append(agent.learn(48, log_interval=None))
    acting = {(first, 3) for first in (0, 3, 6, 9)}
    of_ends = {(None, 3), (None, 1)}  # of the rollout, and of episodes that were cut off
    assert set(trained[1]._calls._recorded) == {"read", "learn"} | acting | of_ends
    assert_same_weights(trained[0].policy, trained[1].policy)


@pytest.mark.parametrize("arm", NETWORKS)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_dqn_learns_the_same_from_recorded_calls(arm, precision, recording):
    """Over ten updates and three changes of the target network."""
    trained = []
    for cuda_graphs in (False, True):
        agent = make_dqn(DQN, arm, precision=precision, cuda_graphs=cuda_graphs)
        agent.replay_buffer = PlainReplay(agent)
        trained.append(agent.learn(60, log_interval=None))
    names = set(trained[1]._calls._recorded)
    assert names == {"read", "read target", "target values", "choose", "learn"}
    generator = np.random.default_rng(0)
    shapes = generator.integers(0, 256, (20, 1, 4, 3, 3), dtype=np.uint8)
    images = shapes.repeat(28, axis=3).repeat(28, axis=4)
    with torch.no_grad():  # no action is the best one everywhere
        mean = trained[0].q_net(torch.from_numpy(images[:, 0])).mean(0)
        for agent in trained:
            agent.q_net.q_net[0].bias.sub_(mean)
    chosen = [[agent._choose_best(image)[0] for image in images] for agent in trained]
    assert chosen[0] == chosen[1]
    assert len(set(chosen[0])) > 1
    assert_same_weights(trained[0].policy, trained[1].policy)


def assert_same_weights(one: torch.nn.Module, other: torch.nn.Module) -> None:
    expected = one.state_dict()
    for name, values in other.state_dict().items():
        torch.testing.assert_close(values, expected[name], rtol=0, atol=0, msg=name)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("arm", NETWORKS)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("algorithm", [A2C, DQN])
def test_cuda_graphs_learn_what_launches_one_by_one_learn(algorithm, arm, precision):
    """What the weights differ by is little beside what they have moved."""
    start, end = [], []
    for cuda_graphs in (False, True):
        keywords = {"device": "cuda", "precision": precision, "cuda_graphs": cuda_graphs}
        if algorithm is A2C:
            agent = make_a2c(A2C, NETWORKS[arm], **keywords)
        else:
            agent = make_dqn(DQN, arm, **keywords)
            agent.replay_buffer = PlainReplay(agent)
        start.append({name: p.detach().clone() for name, p in agent.policy.named_parameters()})
        agent.learn(60, log_interval=None)
        end.append(dict(agent.policy.named_parameters()))
    for name, before in start[0].items():
        assert torch.equal(before, start[1][name])
        moved = torch.linalg.vector_norm(end[0][name] - before)
        difference = torch.linalg.vector_norm(end[0][name] - end[1][name])
        assert moved > 0, name
        assert difference <= 0.1 * moved, name


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("algo", ["a2c", "dqn"])
@pytest.mark.parametrize("cuda_graphs", [False, True])
def test_a_run_on_a_gpu_finishes_and_is_extended(tmp_path, algo, cuda_graphs):
    for steps in (100, 200):
        execution = {"device": "auto", "cuda_graphs": cuda_graphs}
        config = short_config(algo, coord_layers=[0], total_agent_steps=steps, **execution)
        status = train(tmp_path, config).read_status()
    assert status is not None
    assert (status.state, status.agent_steps) == ("finished", 200)
