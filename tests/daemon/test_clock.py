"""The time over a jump: by the processor's counter where it runs through, else by the wall clock (H23)."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from luod.daemon import clock
from luod.daemon.clock import Crossing, Moment, Pace
from luod.testing import eventually

PACE = Pace(ticks=2.0e9, error=1e-6)
LEFT = Moment(wall=1000.25, monotonic=500.0, ticks=10_000_000_000, slack=1e-6)


def arrived(*, wall: float, seconds: float | None) -> Moment:
    """Returns a moment in a new kernel, `seconds` later by the counter."""
    ticks = None if seconds is None else 10_000_000_000 + int(seconds * 2.0e9)
    return Moment(wall=wall, monotonic=1.5, ticks=ticks, slack=1e-6)


def test_the_counter_tells_what_the_wall_clock_lost() -> None:
    took = clock.crossing(LEFT, PACE, arrived(wall=1003.0, seconds=3.25))
    assert (took.clock, took.arrived) == ("tsc", 1.5)
    assert took.seconds == pytest.approx(3.25)
    assert took.error_seconds == pytest.approx(3.25e-6 + 2e-6)


@pytest.mark.parametrize(("pace", "seconds"), [(PACE, None), (None, 3.25), (PACE, -1.0)])
def test_without_a_counter_that_runs_through_it_is_the_wall_clock_with_its_error(
    pace: Pace | None, seconds: float | None
) -> None:
    took = clock.crossing(LEFT, pace, arrived(wall=1003.0, seconds=seconds))
    assert took == Crossing("wall", 2.75, clock.WALL_ERROR_SECONDS, 1.5)


def test_a_counter_that_is_clearly_off_is_not_believed_and_the_doubt_is_shown() -> None:
    took = clock.crossing(LEFT, PACE, arrived(wall=1003.25, seconds=60.0))
    assert (took.clock, took.seconds, took.error_seconds) == ("wall", 3.0, 57.0)


def test_a_machine_that_wakes_up_in_1970_has_its_counter() -> None:
    assert clock.crossing(LEFT, PACE, arrived(wall=5.0, seconds=3.0)).clock == "tsc"


@pytest.mark.parametrize("ticks", [50_000_000_000, None])
def test_the_counter_is_counted_back_to_an_earlier_moment(monkeypatch: pytest.MonkeyPatch, ticks: int | None) -> None:
    then = Moment(wall=2000.0, monotonic=1.5, ticks=None, slack=0.0)
    monkeypatch.setattr(clock, "now", lambda: Moment(2010.0, 11.5, ticks, 1e-6))
    found = clock.counted(then, PACE)
    if ticks is None:
        assert found == then
    else:
        assert (found.wall, found.monotonic, found.ticks) == (2000.0, 1.5, ticks - 20_000_000_000)
        assert found.slack == pytest.approx(1e-6 + 10 * PACE.error)


def test_the_start_does_not_use_the_counter() -> None:
    program = "import sys; from luod.daemon import clock; clock.now(count=False); print('ctypes' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert found.stdout == "False\n"


def test_the_pace_of_this_machine_is_the_same_twice() -> None:
    moments = [clock.now()]
    if moments[0].ticks is None:
        pytest.skip("the kernel does not trust this machine's counter, or code of our own is forbidden")

    def later() -> Moment | None:
        now = clock.now()
        return now if now.monotonic - moments[-1].monotonic > 0.05 else None

    for _ in range(2):
        moments.append(eventually(later, describe="the clock goes on"))
    one, two = (clock.pace(*pair) for pair in (moments[:2], moments[1:]))
    assert one is not None
    assert two is not None
    # Each says by how much it may be wrong; a clock that is set right meanwhile adds 500 millionths.
    assert abs(one.ticks / two.ticks - 1) <= one.error + two.error + 0.001


@pytest.mark.parametrize(
    ("offered", "flags", "trusted"),
    [
        ("kvm-clock tsc", None, True),
        ("hpet acpi_pm", "constant_tsc nonstop_tsc", False),
        (None, "fpu constant_tsc nonstop_tsc", True),
        (None, "fpu constant_tsc", False),
        (None, None, False),
    ],
)
def test_the_counter_is_trusted_where_the_kernel_does(
    tmp_path: Path, offered: str | None, flags: str | None, trusted: bool
) -> None:
    if offered is not None:
        directory = tmp_path / "sys/devices/system/clocksource/clocksource0"
        directory.mkdir(parents=True)
        (directory / "available_clocksource").write_text(offered + " \n")
    if flags is not None:
        (tmp_path / "proc").mkdir()
        (tmp_path / "proc/cpuinfo").write_text(f"processor\t: 0\nflags\t\t: {flags}\n")
    assert clock.trusted(str(tmp_path), "tsc") is trusted
