"""When systemd starts luod, for which guests wait after an update, and what its unit can write."""

from __future__ import annotations

from tests.systemd.conftest import SystemdHost

_PID = "$(systemctl show --value --property MainPID luod.service)"


def test_luod_starts_beside_sysinit_target_and_after_the_modules(host: SystemdHost) -> None:
    after = host.sh("systemctl show --value --property After luod.service").split()

    assert not {"sysinit.target", "basic.target", "systemd-tmpfiles-setup.service"} & set(after)
    assert {"systemd-modules-load.service", "systemd-remount-fs.service", "luod.socket"} <= set(after)


def test_luod_stops_after_the_vmms_and_before_the_end_of_systemd(host: SystemdHost) -> None:
    said = host.sh("systemctl show --property Conflicts,Before luod.service luod.socket luod-admin.socket")

    assert said.count("shutdown.target") == 6


def test_luod_counts_the_loads_of_kernels_and_writes_no_other_tunable(host: SystemdHost) -> None:
    host.sh("luoctl load --kernel /boot/vmlinuz")
    assert "loads-not-counted" not in host.sh("luoctl check", check=False)
    for path, may in (
        ("/proc/sys/kernel/kexec_load_limit_reboot", "yes"),
        ("/sys/bus/pci/drivers_probe", "yes"),
        ("/proc/sys/kernel/sysrq", "no"),
        ("/sys/kernel/mm/ksm/run", "no"),
    ):
        said = host.sh(f"nsenter --target {_PID} --mount --root --wd=/ sh -c '[ -w {path} ] && echo yes || echo no'")
        assert (path, said.strip()) == (path, may)
