"""The benchmarks that need no machine: the ratio of a start, and the initial RAM disk that is made to be measured."""

from __future__ import annotations

from pathlib import Path

import pytest
import zstandard

from bench import figures, initrd, kernel, qemu, report, startup, systemd


def test_a_start_is_the_median_of_the_ratios_of_runs() -> None:
    """A run on a busy machine has a slow start and a slow unit."""
    runs = iter([(0.2, 0.1), (2.5, 1.0), (0.3, 0.1)] * len(startup.COUNTS))

    measured = startup.table(lambda count: dict(zip(("first", "unit"), next(runs), strict=True)), "here", 3)

    assert list(measured.values()) == pytest.approx([2.5] * len(startup.COUNTS))


@pytest.mark.parametrize("where", ["emulated", kernel.WHERE])
def test_the_page_has_the_figures_of_a_start(where: str) -> None:
    """Otherwise a run could not be written there."""
    known = {figure.name for figure in figures.parse(report.PAGE.read_text(encoding="utf-8"))}
    assert startup.table(lambda count: {"first": 1.0, "unit": 1.0}, where, 1).keys() <= known


def test_the_pause_of_a_guest_is_compared_with_qemu_s_own_in_figures_that_the_page_has(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(qemu, "with_luod", lambda program, mebibytes: qemu.Pause(3.0, jump=0.75, retrieve=0.25))
    monkeypatch.setattr(qemu, "alone", lambda program, mebibytes: qemu.Pause(6.0, start=0.5))
    monkeypatch.setattr(qemu, "free", lambda: 2 * max(qemu.SIZES) + qemu.BESIDE)

    measured = qemu.table("qemu", runs=1)

    assert sorted(set(measured.values())) == [0.5, 1500]
    assert len(measured) == 2 * len(qemu.SIZES)
    assert measured.keys() <= {figure.name for figure in figures.parse(report.PAGE.read_text(encoding="utf-8"))}


def test_what_luod_adds_to_a_unit_is_measured_in_one_boot_in_figures_that_the_page_has() -> None:
    boots = [
        systemd.Boot(systemd.Start(1.0, 1.1, has), systemd.Start(1.0, 1.1, 1.2), (0.5, 0.9), booted=2.0)
        for has in (1.3, 9.0, 1.4)
    ]

    measured = systemd.figures(boots, "emulated", "luod.socket")

    assert list(measured.values()) == pytest.approx([200.0, 0.1])
    assert measured.keys() <= {figure.name for figure in figures.parse(report.PAGE.read_text(encoding="utf-8"))}


@pytest.mark.parametrize("packing", ["", ".xz"])
def test_the_made_initial_ram_disk_loads_its_handler(
    packing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(initrd, "MODULES", (5, 2000))
    monkeypatch.setattr(initrd, "FIRMWARE", (5, 2000))
    monkeypatch.setattr(initrd, "contents", lambda: bytes(range(256)) * 100)
    disk = tmp_path / "initrd"
    disk.write_bytes(zstandard.compress(initrd.archive(packing)))

    initrd.preflight(disk)
