"""How long no workers are started where others have ended by themselves."""

from consilia.tune.worker_groups import Setback


def test_each_loss_in_a_row_waits_longer_up_to_twenty_seconds():
    setback, now, waits = Setback(), 1000.0, []
    for _ in range(12):
        waits.append(setback.add(now))
        assert setback.until == now + waits[-1]
        now = setback.until + 60
    assert waits == [5, 10, *[20] * 10]
    assert setback.n == 12


def test_a_group_that_has_lasted_ends_as_the_first_does():
    setback = Setback()
    for now in (0.0, 10.0, 30.0):
        setback.add(now)
    assert setback.until == 50
    assert setback.add(50 + 299) == 20
    assert setback.add(setback.until + 300) == 5
    assert setback.n == 1
