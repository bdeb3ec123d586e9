"""Commands in shells of their own, whose output fails in every way."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from runtime.command_line import align_columns, shown_meanwhile
from tests.processes import ROOT

PROLOGUE = (
    "import os, sys\n"
    "from runtime.command_line import WorkFailure, exit_on_user_error, print_result\n"
    "with exit_on_user_error():\n    "
)
WORK = (
    "print('caf\\u00e9'); print('\\u2588' * 100_000, flush=True); os.system('echo from a child')\n"
    "    print('again', flush=True); print('to the other', file=sys.stderr); sys.stderr.isatty()\n"
    "    sys.stdout.close(); print('closed')\n"
    "    with open('saved', 'x') as file:\n"
    "        assert file.fileno() > 2\n"
    "        file.write('the work')"
)


def run(folder: Path, body: str, shell: str) -> "subprocess.CompletedProcess[str]":
    """Run a command's body; `$RUN` in the shell's line stands for it."""
    line = shell.replace("$RUN", '"$PYTHON" -c "$BODY"')
    return subprocess.run(
        ["bash", "-c", line],
        cwd=folder,
        env={"PYTHON": sys.executable, "BODY": PROLOGUE + body, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize(
    "shell",
    [
        "$RUN",
        "$RUN >&- 2>&-",
        "$RUN <&- >&- 2>&-",
        "$RUN >/dev/full 2>/dev/full",
        "$RUN 2>&1 | true; exit ${PIPESTATUS[0]}",
        "PYTHONUNBUFFERED=1; export PYTHONUNBUFFERED; $RUN 2>&1 | true; exit ${PIPESTATUS[0]}",
        "PYTHONIOENCODING=ascii; export PYTHONIOENCODING; $RUN",
    ],
)
def test_output_that_fails_changes_nothing_of_the_work(tmp_path, shell):
    done = run(tmp_path, WORK, shell)
    assert done.returncode == 0, done.stderr
    assert done.stderr in ("", "to the other\n")
    assert (tmp_path / "saved").read_text() == "the work"


def test_a_reader_that_does_not_read_holds_up_no_work(tmp_path):
    body = "for _ in range(2000): print('x' * 100, flush=True)\n    open('saved', 'x').close()"
    reading, writing = os.pipe()
    try:
        environment = {"PYTHONPATH": str(ROOT)}
        command = [sys.executable, "-c", PROLOGUE + body]
        done = subprocess.run(
            command, cwd=tmp_path, env=environment, stdout=writing, timeout=60, check=False
        )
    finally:
        os.close(reading)
        os.close(writing)
    assert done.returncode == 0
    assert (tmp_path / "saved").exists()


@pytest.mark.parametrize(
    ("shell", "status", "error"),
    [
        ("$RUN", 0, ""),
        ("$RUN > >(exec sleep 30 >&- 2>&-)", 0, ""),  # a reader that does not read
        ("$RUN | true; exit ${PIPESTATUS[0]}", 141, ""),
        ("$RUN >/dev/full", 2, "error: No space left on device\n"),
        ("$RUN >&-", 2, "error: the output is closed\n"),
    ],
)
def test_a_result_that_is_only_printed_has_to_arrive(tmp_path, shell, status, error):
    done = run(tmp_path, "import time; time.sleep(0.5); print_result('the result')", shell)
    assert (done.returncode, done.stderr) == (status, error)


@pytest.mark.parametrize(
    ("body", "status", "error"),
    [
        ("raise ValueError('a\\n  b')", 2, "error: a b\n"),
        ("open('no')", 2, "error: no: No such file or directory\n"),
        ("raise WorkFailure('it hangs')", 1, "error: it hangs\n"),
        ("raise ValueError('\\x1b[2J')", 2, "error: ?[2J\n"),
        ("raise KeyboardInterrupt", 130, "stopped.\n"),
        ("sys.exit(7)", 7, ""),
    ],
)
def test_exit_status(tmp_path, body, status, error):
    done = run(tmp_path, body, "$RUN")
    assert (done.returncode, done.stderr) == (status, error)


@pytest.mark.parametrize(("body", "status"), [("open('no')", 2), ("raise KeyboardInterrupt", 130)])
def test_exit_status_where_nothing_can_be_told(tmp_path, body, status):
    done = run(tmp_path, body, "$RUN 2>&-")
    assert (done.returncode, done.stderr) == (status, "")


def test_ctrl_c_while_a_dataclass_is_made_is_an_exit_status_too(tmp_path: Path) -> None:
    (tmp_path / "command.py").write_text(PROLOGUE + "exec('raise KeyboardInterrupt')")
    done = run(tmp_path, "", 'exec "$PYTHON" -m command')
    assert (done.returncode, done.stderr) == (130, "stopped.\n")


@pytest.mark.parametrize(
    ("left", "expected"),
    [
        (1, ["run         steps  left", "Pong/seed0      7   1 h", "Q           1_000     -"]),
        (3, ["run         steps  left", "Pong/seed0  7      1 h", "Q           1_000  -"]),
    ],
)
def test_words_are_flush_left_and_numbers_flush_right(left, expected):
    rows = [("run", "steps", "left"), ("Pong/seed0", "7", "1 h"), ("Q", "1_000", "-")]
    assert align_columns(rows, left=left) == expected


@pytest.mark.parametrize(
    ("on_terminal", "shown"), [(True, "\r123456789\x1b[K|\r\x1b[K"), (False, "|")]
)
def test_what_takes_long_is_shown_on_a_terminal_alone(monkeypatch, capsys, on_terminal, shown):
    monkeypatch.setattr("sys.stderr.isatty", lambda: on_terminal, raising=False)
    monkeypatch.setattr("shutil.get_terminal_size", lambda: os.terminal_size((10, 24)))
    with shown_meanwhile("1234567890"):
        print("|", end="", file=sys.stderr)
    assert capsys.readouterr().err == shown
