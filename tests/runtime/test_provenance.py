"""What belongs to the version of the source, and where it was started."""

import subprocess
from pathlib import Path

import pytest
import torch

from runtime import provenance
from runtime.provenance import describe_start, hash_modules, hash_source, strip_comments


def test_a_checkout_around_the_source_is_not_the_sources(tmp_path: Path, monkeypatch) -> None:
    source = tmp_path / "source"
    source.mkdir()
    git = ["git", "-c", "user.name=n", "-c", "user.email=e@example.org", "-C", str(tmp_path)]
    for command in (["init", "-q"], ["commit", "-q", "--allow-empty", "-m", "m"]):
        subprocess.run([*git, *command], check=True)
    monkeypatch.setattr(provenance, "hash_source", str)
    monkeypatch.setattr(provenance, "_ROOT", tmp_path)
    assert len(describe_start("cpu", 1, {})["commit"]) == 40
    monkeypatch.setattr(provenance, "_ROOT", source)
    assert describe_start("cpu", 1, {})["commit"] is None


@pytest.mark.parametrize(("device", "gpu"), [("cpu", None), ("cuda:1", "GPU of cuda:1")])
def test_a_gpu_is_named(device: str, gpu: str | None, monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"GPU of {device}")
    start = describe_start(device, 1, {})
    assert (start["device"], start["gpu"]) == (device, gpu)


def test_comments_and_layout_are_not_part_of_the_source_version():
    one = '"""Doc."""\nimport os  # why\n\n\ndef f(x):\n    """Doc."""\n    return (x +\n 1)\n'
    assert strip_comments(one) == strip_comments("import os\ndef f(x): return x + 1")
    assert strip_comments(one) != strip_comments(one.replace("1", "2"))
    assert strip_comments('def f():\n    "Doc."\n') == strip_comments("def f(): pass")


def test_the_source_version_is_of_the_learning_rooms_and_the_protocols(tmp_path, monkeypatch):
    learning = ["envs/a.py", "policies/a.py", "agents/algorithms/a.py"]
    for place in (*learning, "agents/training/a.py"):
        (tmp_path / place).parent.mkdir(parents=True)
        (tmp_path / place).write_text("x = 1\n")
    monkeypatch.setattr(provenance, "_ROOT", tmp_path)
    monkeypatch.setattr(provenance, "hash_modules", hash_modules.__wrapped__)
    first = hash_source.__wrapped__()
    assert len(first) == 12
    (tmp_path / "agents/training/a.py").write_text("x = 2\n")
    (tmp_path / "envs/a.py").write_text("x = 1  # why\n")
    assert hash_source.__wrapped__() == first
    versions = [first]
    for place in (*learning, "envs/another.py"):
        (tmp_path / place).write_text("x = 2\n")
        versions.append(hash_source.__wrapped__())
    monkeypatch.setattr(provenance, "load_preset", lambda name: {name: "changed"})
    versions.append(hash_source.__wrapped__())
    assert len(set(versions)) == 6
