"""The first signal is a wish that code can ask for; the handlers of before come back."""

import os
import signal
import threading

from consilia.tune.interrupt import StopSignal


def test_the_first_signal_is_remembered_and_raises_nothing():
    for number in (signal.SIGINT, signal.SIGTERM):
        stop = StopSignal()
        with stop.listening():
            assert not stop.raised
            os.kill(os.getpid(), number)
            assert stop.raised


def test_a_second_signal_would_end_the_process():
    stop = StopSignal()
    with stop.listening():
        os.kill(os.getpid(), signal.SIGINT)
        assert signal.getsignal(signal.SIGINT) is signal.SIG_DFL


def test_the_handlers_of_before_come_back():
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    stop = StopSignal()
    with stop.listening():
        os.kill(os.getpid(), signal.SIGTERM)
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_outside_the_main_thread_no_handler_is_touched():
    before = signal.getsignal(signal.SIGINT)
    seen = []

    def listen() -> None:
        with StopSignal().listening():
            seen.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=listen)
    thread.start()
    thread.join()
    assert seen == [before]
