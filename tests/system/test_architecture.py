"""Imports point one way, and the layer stands alone."""

import ast
import sys
from pathlib import Path

import pytest

from tests.processes import ROOT, run_script

# What each part of the project may import of the others.
ALLOWED = {
    "configs": {"configs"},
    "runtime": {"configs", "runtime"},
    "envs": {"configs", "runtime", "envs"},
    "policies": {"policies"},
    "examples": {"policies", "examples"},
    "agents": {"configs", "runtime", "envs", "policies", "agents"},
    "experiments": {"configs", "runtime", "envs", "policies", "agents", "experiments"},
}
OURS = {*ALLOWED, "benchmarks", "tests", "train", "evaluate"}


def imported_modules(path: Path) -> set[str]:
    """Every module a file imports, inside functions too."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            assert node.module is not None
            names.add(node.module)
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def top_level(names: set[str]) -> set[str]:
    return {name.partition(".")[0] for name in names}


@pytest.mark.parametrize("part", ALLOWED)
def test_imports_point_one_way(part):
    files = list((ROOT / part).rglob("*.py"))
    assert files
    for path in files:
        assert top_level(imported_modules(path)) & OURS <= ALLOWED[part], path


@pytest.mark.parametrize(
    ("room", "later"),
    [
        ("algorithms", ("agents.training", "agents.evaluation")),
        ("models", ("agents.training", "agents.evaluation")),
        ("evaluation", "agents.training"),
    ],
)
def test_the_rooms_of_agents_know_nothing_of_later_ones(room, later):
    files = list((ROOT / "agents" / room).rglob("*.py"))
    assert files
    for path in files:
        for name in imported_modules(path):
            assert not name.startswith(later), path


def test_the_configs_know_nothing_of_learning():
    for path in (ROOT / "configs").rglob("*.py"):
        assert (
            not top_level(imported_modules(path))
            - set(sys.stdlib_module_names)
            - {"configs", "pydantic"}
        )


def test_coordconv_imports_torch_alone_and_the_extractors_sb3_too():
    standard = set(sys.stdlib_module_names)
    names = top_level(imported_modules(ROOT / "policies" / "coordconv.py"))
    assert names - standard == {"torch"}
    for path in (ROOT / "policies").glob("*.py"):
        names = top_level(imported_modules(path))
        assert names - standard <= {"torch", "stable_baselines3", "gymnasium", "policies"}, path


def test_the_coordinate_tasks_load_neither_sb3_nor_gymnasium():
    modules = sorted(
        ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for path in (ROOT / "experiments" / "coordinates").glob("*.py")
        if not path.name.startswith("__")
    )
    assert modules
    script = (
        f"import sys, {', '.join(modules)}\n"
        "print({'stable_baselines3', 'gymnasium', 'ale_py'} & set(sys.modules))"
    )
    assert run_script(script) == "set()\n"


@pytest.mark.parametrize(
    "arguments",
    [
        ["--algo", "ppo"],
        ["--game", "Pong", "--set", "gama=1"],
        ["--game", "Pong", "--runs", "train.py"],
        ["--compare", "--runs", "train.py/below"],
    ],
)
def test_a_wrong_command_line_is_answered_without_loading_torch(arguments):
    script = (
        "import sys, train\n"
        f"try:\n    train.main({arguments})\n"
        "except SystemExit as stop:\n    print(stop.code, 'torch' in sys.modules)"
    )
    assert run_script(script) == "2 False\n"
