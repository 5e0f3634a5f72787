"""What a command of several steps shows: a bar on a terminal, lines elsewhere, and nothing on standard output."""

import io
import threading

import pytest
from rich.console import Console

from consilia.report.pace import Pace
from consilia.report.steps import StepsProgress, show_steps


class Clock:
    """Seconds, moved by hand."""

    def __init__(self) -> None:
        self.seconds = 1000.0

    def __call__(self) -> float:
        return self.seconds


def steps_in(*, terminal: bool) -> tuple[StepsProgress, Clock, io.StringIO]:
    output, clock = io.StringIO(), Clock()
    console = Console(file=output, force_terminal=terminal, width=160, color_system=None)
    return StepsProgress(console, clock=clock), clock, output


def test_a_terminal_shows_the_step_before_anything_is_told():
    steps, _, output = steps_in(terminal=True)
    steps.close()
    assert "loading torch" in output.getvalue()


def test_a_line_says_the_step_how_far_it_is_how_fast_and_how_long_the_rest_takes():
    steps, clock, output = steps_in(terminal=False)
    steps.say()
    steps("explaining images", 0, 100)
    clock.seconds += 10
    steps("explaining images", 20, 100)
    steps.say()
    steps("scoring")
    steps.say()
    steps.close()
    assert output.getvalue().splitlines() == [
        "loading torch",
        "explaining images, 20 of 100, 2.0/s, about 40 s left",
        "scoring",
    ]


def test_a_new_step_has_a_speed_of_its_own():
    steps, clock, output = steps_in(terminal=False)
    steps("fast", 0, 100)
    clock.seconds += 1
    steps("fast", 100, 100)
    steps("slow", 0, 100)
    clock.seconds += 10
    steps("slow", 1, 100)
    steps.say()
    assert output.getvalue() == "slow, 1 of 100, 0.1/s, about 16 min left\n"


def test_lines_come_by_themselves_while_a_step_takes_long(monkeypatch, capfd):
    monkeypatch.setattr("consilia.report.steps.LINE_SECONDS", 0.01)
    said = threading.Event()
    monkeypatch.setattr(StepsProgress, "say", lambda steps: said.set())
    with show_steps():
        assert said.wait(60)
    assert capfd.readouterr().out == ""


def test_the_thread_ends_with_the_block_whatever_ends_it():
    before = threading.active_count()
    with pytest.raises(KeyboardInterrupt), show_steps():
        raise KeyboardInterrupt
    assert threading.active_count() == before


def test_a_pace_is_that_of_the_last_minute():
    pace = Pace()
    for second in range(200):
        pace.add(second, 10 * second if second < 100 else 1000 + (second - 100))
    assert pace.describe(1199, "images") == "1.0 images/s, about 2 min left"
