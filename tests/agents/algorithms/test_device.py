import pytest
import torch

from tests.short_runs import short_config, train


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("algo", ["a2c", "dqn"])
def test_a_run_on_a_gpu_finishes_and_is_extended(tmp_path, algo, precision):
    for steps in (100, 200):
        settings = {"coord_layers": [0], "precision": precision, "device": "auto"}
        config = short_config(algo, total_agent_steps=steps, **settings)
        status = train(tmp_path, config).read_status()
    assert status is not None
    assert (status.state, status.agent_steps) == ("finished", 200)
