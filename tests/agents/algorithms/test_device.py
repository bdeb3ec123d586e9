import pytest
import torch

import evaluate
from tests.short_runs import ShortRun, short_config


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
