"""The report of the process that calls reboot(2): one line, read as the error that it was."""

from __future__ import annotations

import pytest

from luod.daemon.updates import reboot_report


@pytest.mark.parametrize("meaning", ["no image is loaded", 'it said\t"no"', "two\nlines"])
def test_serve_reads_the_error_that_the_process_wrote(capfd: pytest.CaptureFixture[str], meaning: str) -> None:
    reboot_report.write(22, "reboot(LINUX_REBOOT_CMD_KEXEC)", meaning)

    error = reboot_report.read(capfd.readouterr().out.strip())

    assert error is not None
    assert (error.errno, error.call, error.meaning) == (22, "reboot(LINUX_REBOOT_CMD_KEXEC)", meaning)


@pytest.mark.parametrize(
    "text", ["", "Killed", "Traceback (most recent call last):\n\tx\ty", "22", "22\treboot", "-1\ta\tb"]
)
def test_what_has_another_form_is_no_report(text: str) -> None:
    assert reboot_report.read(text) is None
