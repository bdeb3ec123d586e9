"""What the measuring commands refuse before they measure."""

from pathlib import Path

import pytest

from benchmarks import growth, parts, speed


@pytest.mark.parametrize(
    ("program", "arguments", "message"),
    [
        (speed, "--rounds 0", "--rounds must be at least 1, got 0."),
        (speed, "--side-by-side 1", "--side-by-side must be at least 2, got 1."),
        (
            speed,
            "--contestants cnn coordconv --against sb3",
            "--against sb3 is none of the --contestants; add it.",
        ),
        (parts, "--game Pang", "Unknown game 'Pang'"),
        (growth, "nowhere/out.png", "there is no folder nowhere; make it first."),
        (growth, "out.pdf", "OUT must end in .png, got out.pdf."),
        (growth, "folder.png", "folder.png is a directory; give the path of a file."),
        (growth, "mine.png", "mine.png holds something else; choose another name."),
    ],
)
def test_refusals(tmp_path, monkeypatch, refuse, program, arguments, message) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")  # so that it is put back
    Path("folder.png").mkdir()
    Path("mine.png").write_text("my own")
    assert message in refuse(program.main, arguments.split())
    assert Path("mine.png").read_text() == "my own"
