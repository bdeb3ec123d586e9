import pytest
import torch

import evaluate
from agents.algorithms.device import find_device
from tests.refusals import refusal
from tests.short_runs import ShortRun, short_config


@pytest.mark.parametrize("number", [1, 128, 256, 99_999_999_999])
def test_a_gpu_that_is_not_there_is_named(monkeypatch, number):
    """Torch keeps the number in a byte: 256 would be the first GPU, 128 a negative number."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert refusal(find_device, f"cuda:{number}") == (
        f"`device` cuda:{number} is not there: 1 GPUs found; use auto."
    )
    assert find_device("cuda:0") == torch.device("cuda", 0)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("algo", ["a2c", "dqn"])
def test_a_run_on_a_gpu_goes_on_where_it_stopped_and_is_evaluated(
    tmp_path, algo, precision, capsys
):
    settings = {"coord_layers": [0], "precision": precision, "device": "auto"}
    run = ShortRun(tmp_path, short_config(algo, total_agent_steps=200, **settings))
    run.stop_after(10)
    stopped = run.directory.read_status()
    assert stopped is not None
    assert stopped.state == "interrupted"
    assert 0 < stopped.agent_steps < 200
    finished = run.train().read_status()
    assert finished is not None
    assert (finished.state, finished.agent_steps) == ("finished", 200)
    assert "device    cuda, " in capsys.readouterr().out

    assert evaluate.main([str(run.directory.path), "--episodes=2", "--device=cuda"]) == 0
    assert "games               2, " in capsys.readouterr().out
