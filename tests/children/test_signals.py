import os
import signal
import sys
import time
from threading import Thread

import pytest

from lightning_lottery.children import signals
from lightning_lottery.children.signals import ENDING, STOPS, Ended, ended_by


@pytest.fixture
def clock(monkeypatch):
    """Seconds, in a list of one, that pass only where a test says so."""
    seconds = [100.0]
    monkeypatch.setattr(signals, "monotonic", lambda: seconds[0])
    return seconds


@pytest.mark.parametrize("number", ENDING)
def test_a_signal_ends_the_block_with_the_exit_code_of_shells_and_a_sentence(number):
    before = signal.getsignal(number)
    with pytest.raises(Ended) as end, ended_by(*ENDING):
        os.kill(os.getpid(), number)
    assert end.value.code == 128 + number
    assert str(end.value) == f"ended by {signal.Signals(number).name}: the same command goes on from here."
    assert signal.getsignal(number) is before and not signals.is_asked()


def test_within_a_fit_a_signal_is_heeded_where_the_fit_says():
    with ended_by(*ENDING):
        signals.wait_for_step()
        signals.heed()
        assert not signals.is_asked()
        os.kill(os.getpid(), signal.SIGTERM)
        assert signals.is_asked()
        with pytest.raises(Ended, match="SIGTERM"):
            signals.heed()
        signals.wait_no_more()
    signals.heed()  # the next block has nothing of it


def test_a_signal_s_echo_is_no_second_wish_but_a_second_one_is_heeded_at_once(clock):
    with pytest.raises(Ended, match="SIGINT"), ended_by(*ENDING):
        signals.wait_for_step()
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGINT)
        clock[0] += 2
        os.kill(os.getpid(), signal.SIGINT)
        pytest.fail("the second wish was not heeded")


def test_an_echo_does_not_disturb_what_the_first_one_began(clock):
    with pytest.raises(Ended, match="SIGTERM"), ended_by(*ENDING):
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        finally:
            os.kill(os.getpid(), signal.SIGTERM)  # while children are waited for


def test_a_signal_that_is_ignored_or_that_somebody_handles_is_left_alone():
    seen = []
    before = [signal.signal(signal.SIGTERM, lambda *_: seen.append(1)), signal.signal(signal.SIGINT, signal.SIG_IGN)]
    try:
        with ended_by(*ENDING):
            os.kill(os.getpid(), signal.SIGTERM)
            os.kill(os.getpid(), signal.SIGINT)
            signals.wait_for_step()
            assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
        assert seen == [1] and not signals.is_asked()
    finally:
        signal.signal(signal.SIGTERM, before[0])
        signal.signal(signal.SIGINT, before[1])


def test_handlers_that_somebody_set_meanwhile_are_taken_back():
    with ended_by(*STOPS):
        signal.signal(signal.SIGTERM, lambda *_: pytest.fail("Lightning's answers"))
        signals.wait_for_step()
        os.kill(os.getpid(), signal.SIGTERM)
        assert signals.is_asked()


def test_a_block_within_a_block_shares_its_wish():
    with ended_by(*STOPS):
        with ended_by(*ENDING):
            signals.wait_for_step()
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            signals.take_back()  # also what the outer block took
            os.kill(os.getpid(), signal.SIGTERM)
            assert signals.is_asked()
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_outside_of_the_main_thread_nothing_is_handled():
    handlers = []

    def work():
        with ended_by(*ENDING):
            signals.wait_for_step()
            handlers.append(signal.getsignal(signal.SIGTERM))

    thread = Thread(target=work)
    thread.start()
    thread.join()
    assert handlers == [signal.SIG_DFL]


@pytest.mark.parametrize(("number", "ends"), [(signal.SIGTERM, True), (signal.SIGINT, False)])
def test_a_fork_ends_by_sigterm_as_pools_expect_and_leaves_the_others_to_whoever_forked_it(number, ends, monkeypatch):
    taken = []
    with ended_by(*ENDING), monkeypatch.context() as patch:
        patch.setattr(signals.os, "getpid", lambda: -1)  # as in a fork
        patch.setattr(signals.os, "kill", lambda process, number: taken.append(number))
        signals._answer(number, None)
        assert taken == [number] * ends
        assert (signal.getsignal(number) is signal.SIG_DFL) == ends
        assert not signals.is_asked()


class TidiedUp:
    """Gets a signal in the one moment in which Python lets nobody raise anything."""

    def __init__(self, number):
        self.number = number

    def __del__(self):
        os.kill(os.getpid(), self.number)
        sum(range(100))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT])
def test_a_signal_that_comes_while_an_object_is_tidied_up_is_not_lost(number, capsys):
    hook = sys.unraisablehook
    with pytest.raises((Ended, KeyboardInterrupt)), ended_by(*STOPS):
        TidiedUp(number)  # gone at once
        for _ in range(200):
            time.sleep(0.05)
        pytest.fail("the signal was lost")
    assert sys.unraisablehook is hook and "Traceback" not in capsys.readouterr().err
