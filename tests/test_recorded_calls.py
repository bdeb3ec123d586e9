"""Acting and learning from recorded operations, beside acting and learning from Python.

A machine without GPU cannot record a CUDA graph. `record_on_cpu` stands in for it: it notes every
operation that a call starts, with the tensors it was given, and repeats them without running any
Python of the agents. What would go wrong in a CUDA graph goes wrong there too: an input that moved,
a number that was frozen, a value asked for on the host.
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

import agents.recorded_calls
from agents.a2c import A2C
from agents.dqn import DQN
from agents.recorded_calls import RecordedCalls
from tests.random_frames import NETWORKS
from tests.test_a2c import make as make_a2c
from tests.test_dqn import PlainReplay
from tests.test_dqn import make as make_dqn

ON_HOST = (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.nonzero.default)


class Operations(TorchDispatchMode):
    """Notes the operations that are started within."""

    def __init__(self):
        super().__init__()
        self.noted: list[tuple[Any, tuple[Any, ...], dict[str, Any], Any]] = []

    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
        if function in ON_HOST:
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
    monkeypatch.setattr(agents.recorded_calls, "record", record_on_cpu)


def test_a_recorded_call_follows_what_is_held_and_runs_no_python_again(recording):
    calls = RecordedCalls(enabled=True)
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


def test_a_value_asked_for_on_the_host_cannot_be_recorded(recording):
    values = torch.ones(())
    with pytest.raises(RuntimeError, match="not permitted when stream is capturing"):
        RecordedCalls(enabled=True).run("ask", values.item)


def test_unrecorded_calls_are_made_every_time():
    calls = RecordedCalls(enabled=False)
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
    assert len(trained[1]._calls._recorded) > 5
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
@pytest.mark.parametrize("algorithm", ["a2c", "dqn"])
def test_cuda_graphs_learn_what_launches_one_by_one_learn(algorithm):
    trained = []
    for cuda_graphs in (False, True):
        if algorithm == "a2c":
            agent = make_a2c(A2C, NETWORKS["coordconv"], "cuda", cuda_graphs=cuda_graphs)
            trained.append(agent.learn(48, log_interval=None))
        else:
            agent = make_dqn(DQN, "coordconv", device="cuda", cuda_graphs=cuda_graphs)
            agent.replay_buffer = PlainReplay(agent)
            trained.append(agent.learn(60, log_interval=None))
    expected = trained[0].policy.state_dict()
    for name, values in trained[1].policy.state_dict().items():
        torch.testing.assert_close(values, expected[name], rtol=1e-3, atol=1e-3, msg=name)
