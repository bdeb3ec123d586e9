"""The watchdog ends its process, so each test gives it one of its own."""

import signal
import time

from tests.processes import start

PROLOGUE = """
import threading, time
from agents.training.watchdog import Watchdog
def on_hang(message):
    print("told:", message, flush=True)
"""


def test_what_cannot_be_told_still_ends_the_process():
    """As when the disk is full."""
    process = start(
        "-c",
        PROLOGUE + "def on_hang(message):\n    raise OSError('full')\n"
        "with Watchdog(0.2, on_hang).watch():\n    time.sleep(60)",
    )
    _, err = process.communicate(timeout=300)
    assert process.returncode == 1
    assert err == (
        "error: the environments have not answered for 0.2 s; the same command goes on.\n"
    )


def test_signs_of_life_a_suspension_and_the_end_of_the_block_keep_it_quiet():
    process = start(
        "-c",
        PROLOGUE + "watchdog = Watchdog(1.5, on_hang)\n"
        "with watchdog.watch():\n"
        "    print('watching', flush=True)\n"
        "    for _ in range(20):\n        time.sleep(0.1); watchdog.feed()\n"
        "    watchdog.rest(); time.sleep(2); watchdog.feed()\n"
        "time.sleep(2)\n"
        "print(threading.active_count())",
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "watching\n"
    process.send_signal(signal.SIGSTOP)
    time.sleep(2)
    process.send_signal(signal.SIGCONT)
    assert process.communicate(timeout=60) == ("1\n", "")
    assert process.returncode == 0
