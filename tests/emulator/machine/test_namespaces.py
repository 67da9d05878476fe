"""What luoemu tells an operator whose host gives no user namespaces."""

from __future__ import annotations

from pathlib import Path

from luod.emulator.machine.namespaces import remedy


def test_a_restriction_by_apparmor_is_named(tmp_path: Path) -> None:
    setting = tmp_path / "apparmor_restrict_unprivileged_userns"
    setting.write_text("1\n")
    assert "sysctl kernel.apparmor_restrict_unprivileged_userns=0" in remedy(str(setting))
    setting.write_text("0\n")
    assert "AppArmor" not in remedy(str(setting))
    assert "AppArmor" not in remedy(str(tmp_path / "no such file"))
