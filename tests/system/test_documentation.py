"""What the README and the pages show can be done as it stands, but for shorter trainings."""

import re
import shlex
import sys
from pathlib import Path

import pytest

import evaluate
import train
from experiments.comparison.__main__ import main as write_report
from tests.processes import ROOT
from tests.saved_agents import change_protocols

PAGES = ("README.md", "docs/guide.md")
SHORTER = (
    (r"\.learn\([\d_]+\)", ".learn(200)"),  # DQN begins to learn after 100
    (r"\bn_envs=\d+", "n_envs=2"),
    ("n_steps=128, batch_size=256", "n_steps=16, batch_size=32"),  # of PPO
)


def snippets() -> list[tuple[str, str]]:
    found = []
    for page in PAGES:
        text = (ROOT / page).read_text(encoding="utf-8")
        for match in re.finditer(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
            line = text[: match.start()].count("\n") + 1
            found.append((f"{page}:{line}", match.group(1)))
    assert {place.partition(":")[0] for place, _ in found} == set(PAGES)
    return found


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize(("place", "code"), snippets(), ids=lambda value: value[:30].split("\n")[0])
def test_a_snippet_runs(monkeypatch, place, code):
    monkeypatch.chdir(ROOT)
    for what, shorter in SHORTER:
        code = re.sub(what, shorter, code)
    exec(compile(code, place, "exec"), {"__name__": "__main__"})


def test_the_commands_of_the_page_on_own_networks(tmp_path, monkeypatch):
    """In a folder with the page's module alone; with what makes them short behind each."""
    page = (ROOT / "docs/compare-your-own-network.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```(\w+)\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr("agents.models.own_extractor._loaded", {})
    monkeypatch.delitem(sys.modules, "mynets", raising=False)
    (module,) = [code for language, code in blocks if language == "python"]
    (tmp_path / "mynets.py").write_text(module)
    change_protocols(monkeypatch, max_frames_per_game=100)
    run = ["--steps=20", "--device=cpu", "--set=threads=1"]
    of_compare = ["--games=Breakout", "--seeds=1", "--jobs=1", "--set=n_envs=2"]
    for line in "".join(code for language, code in blocks if language == "bash").splitlines():
        _, *words = shlex.split(line)
        if words[0] == "train.py":
            short = run + of_compare * ("--compare" in words)
            assert train.main([*words[1:], *short]) == 0, line
        elif words[0] == "evaluate.py":
            assert evaluate.main([*words[1:], "--episodes=1", "--device=cpu"]) == 0, line
        else:
            assert words[:2] == ["-m", "experiments.comparison"], line
            assert write_report(words[2:]) == 0, line
    report = (tmp_path / "small/report.md").read_text(encoding="utf-8")
    assert "**SmallCNN,width=32 against cnn**" in report
    assert (tmp_path / "runs/Breakout/a2c-SmallCNN/seed0/evaluation/game.mp4").exists()


@pytest.mark.parametrize("page", [*PAGES, "docs/comparison.md"])
def test_the_comparisons_of_a_page_can_be_made_one_after_the_other(page, tmp_path, monkeypatch):
    """Each is planned where the page has it; two in one folder would refuse each other."""
    text, planned = (ROOT / page).read_text(encoding="utf-8"), 0
    monkeypatch.chdir(tmp_path)
    for line in re.findall(r"^python train\.py (--compare.*)$", text, re.MULTILINE):
        words = shlex.split(line, comments=True)
        if not {"--dry-run", "--ray"} & set(words):
            assert train.main([*words, "--declare"]) == 0, line
            planned += 1
    assert planned > 1


def heading_anchors(page: Path) -> set[str]:
    """GitHub's, and so MyST's: in lower case, punctuation gone, spaces as hyphens."""
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}


def test_pages_link_to_files_and_headings_that_are_there():
    anchors = 0
    for page in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")]:
        links = re.findall(r"\]\(([^):#]*)(?:#([^)]*))?\)", page.read_text(encoding="utf-8"))
        for name, anchor in links:
            target = page.parent / name if name else page
            assert target.exists(), f"{page.name} links to {name}"
            assert not anchor or anchor in heading_anchors(target), f"{page.name}: {name}#{anchor}"
            anchors += bool(anchor)
    assert anchors > 3
