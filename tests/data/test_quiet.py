"""The process's warnings and pydicom's log are as before, however many threads read at once."""

import logging
import threading
import warnings

import pytest

from consilia.data.quiet import quietly


def test_threads_that_overlap_leave_warnings_and_the_log_as_they_were():
    before, shown = list(warnings.filters), warnings.showwarning
    first_in, second_in, first_out = threading.Event(), threading.Event(), threading.Event()
    heard: dict[str, list[str]] = {}

    def first() -> None:
        with quietly() as remarks:
            first_in.set()
            second_in.wait(10)
            warnings.warn("of the first", stacklevel=1)
        heard["first"] = remarks
        first_out.set()

    def second() -> None:
        first_in.wait(10)
        with quietly() as remarks:
            second_in.set()
            first_out.wait(10)
            warnings.warn("of the second", stacklevel=1)
        heard["second"] = remarks

    threads = [threading.Thread(target=part) for part in (first, second)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert heard == {"first": ["of the first"], "second": ["of the second"]}
    assert list(warnings.filters) == before
    assert warnings.showwarning is shown
    assert logging.getLogger("pydicom").propagate


def test_an_error_inside_passes_and_leaves_warnings_on():
    with pytest.raises(KeyError), quietly():
        raise KeyError
    with pytest.warns(UserWarning, match="heard"):
        warnings.warn("heard", stacklevel=1)
