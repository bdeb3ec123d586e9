import signal
from signal import SIGHUP, SIGINT, SIGTERM

import pytest

from runtime.stop_request import StopRequest


@pytest.mark.parametrize(
    "signals", [[SIGINT], [SIGTERM], [SIGHUP], [SIGHUP, SIGHUP, SIGTERM], [SIGTERM, SIGHUP]]
)
def test_signals_become_a_request(signals):
    before = signal.getsignal(SIGHUP)
    stop = StopRequest()
    assert not stop
    with stop.on_signals():
        for each in signals:
            signal.raise_signal(each)
    assert stop.signal == signals[0]
    assert signal.getsignal(SIGHUP) == before


@pytest.mark.parametrize("first", [[SIGINT], [SIGTERM], [SIGHUP, SIGTERM]])
def test_a_second_one_acts_at_once(first):
    before = signal.getsignal(SIGTERM)
    with StopRequest().on_signals():
        for each in first:
            signal.raise_signal(each)
        assert signal.getsignal(SIGTERM) == before
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(SIGINT)


def test_what_nohup_ignores_stays_ignored():
    before = signal.signal(SIGHUP, signal.SIG_IGN)
    stop = StopRequest()
    try:
        with stop.on_signals():
            signal.raise_signal(SIGHUP)
    finally:
        signal.signal(SIGHUP, before)
    assert not stop
