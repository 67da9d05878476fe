"""luod.image.initrd on initial RAM disks that Debian's tools make: initramfs-tools and dracut, with a module of ours.

The tools run in a mount namespace, where the module is in /usr/lib/modules; on the host nothing changes.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from luod.image import command_line, initrd, loaders
from luod.image.initrd import Modules
from luod.testing.tools import cannot_run, require_tool

RELEASE = "7.3.4-luod"
TIMEOUT = 110
SOURCE = """\
#define INFO(name, text) static const char name[] __attribute__((section(".modinfo"), used)) = text
INFO(license, "license=GPL");
INFO(name, "name=" NAME);
INFO(depends, "depends=" DEPENDS);
const char format[] __attribute__((used)) = FORMAT;
"""


@pytest.fixture(scope="module")
def modules(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns a folder with the modules of a kernel: two with handlers, and one without."""
    gcc = require_tool("gcc", package="gcc")
    folder = tmp_path_factory.mktemp("modules")
    (folder / "kernel").mkdir()
    (folder / "source.c").write_text(SOURCE)
    for name, form in (("vfio-pci", "vfio-pci-v1"), ("mlx5-vfio-pci", "vfio-pci-v1"), ("other", "none")):
        defines = {"NAME": name.replace("-", "_"), "DEPENDS": "", "FORMAT": form}
        options = [f'-D{key}="{value}"' for key, value in defines.items()]
        object_file = folder / "kernel" / f"{name}.ko"
        subprocess.run([gcc, *options, "-c", folder / "source.c", "-o", object_file], check=True, timeout=TIMEOUT)
    for name in ("modules.order", "modules.builtin", "modules.builtin.modinfo"):
        (folder / name).touch()
    return folder


def made(command: list[str | Path], modules: Path, folder: Path) -> bytes:
    """Runs a tool that writes `folder`/initrd, with the modules in /usr/lib/modules."""
    unshare = require_tool("unshare", package="util-linux")
    depmod = require_tool("depmod", package="kmod")
    (folder / "work").mkdir()
    shutil.copytree(modules, folder / "upper/modules" / RELEASE)
    namespaces = [unshare, "--mount", *([] if os.geteuid() == 0 else ["--map-root-user"])]
    if subprocess.run([*namespaces, "true"], check=False, timeout=TIMEOUT).returncode:
        cannot_run("it gives no mount namespace (unshare --mount)")
    # The upper layer may not be on an overlay itself, so it is in memory.
    script = f"""set -e
mount -t tmpfs memory {shlex.quote(str(folder / "work"))}
cd {shlex.quote(str(folder / "work"))}
mkdir upper work
cp -a ../upper/. upper
mount -t overlay -o lowerdir=/usr/lib,upperdir=$PWD/upper,workdir=$PWD/work lib /usr/lib
mount -t tmpfs memory /boot
printf 'CONFIG_RD_GZIP=y\nCONFIG_RD_XZ=y\n' >/boot/config-{RELEASE}
{depmod} {RELEASE}
{shlex.join(str(word) for word in command)}
"""
    environment = {**os.environ, "TMPDIR": str(folder), "LC_ALL": "C"}
    done = subprocess.run(
        [*namespaces, "sh", "-c", script], check=False, timeout=TIMEOUT, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return (folder / "initrd").read_bytes()


def judged(disk: bytes, line: str = "root=/dev/vda1") -> Modules:
    found = initrd.judge(initrd.read(disk), RELEASE, command_line.line(line))
    assert set(found.formats.values()) == {("vfio-pci-v1",)}
    assert found.remarks == ()
    return found


def test_initramfs_tools(modules: Path, tmp_path: Path) -> None:
    mkinitramfs = require_tool("mkinitramfs", package="initramfs-tools-core")
    configuration = tmp_path / "configuration"
    shutil.copytree("/etc/initramfs-tools", configuration)
    (configuration / "initramfs.conf").write_text("MODULES=list\nBUSYBOX=n\nCOMPRESS=gzip\nFSTYPE=none\n")
    (configuration / "modules").write_text("vfio-pci ids=8086:1\n")
    disk = made([mkinitramfs, "-d", configuration, "-o", tmp_path / "initrd", RELEASE], modules, tmp_path)
    assert loaders.systems(initrd.read(disk).tree) == {loaders.INITRAMFS_TOOLS}
    assert judged(disk).formats.keys() == {"vfio_pci"}
    assert judged(disk).loaded == {"vfio_pci": "conf/modules"}
    assert not judged(disk, "module_blacklist=vfio_pci").loaded
    assert not judged(disk, "blacklist=vfio-pci").loaded


def test_dracut(modules: Path, tmp_path: Path) -> None:
    """dracut requests a driver that it is forced to, and not one that it only adds."""
    dracut = require_tool("dracut", package="dracut-core")
    parts = ["--no-hostonly", "--no-early-microcode", "--modules", "base kernel-modules", "--gzip"]
    wanted = ["--force-drivers", "vfio-pci", "--add-drivers", "mlx5-vfio-pci"]
    disk = made([dracut, "--quiet", *parts, *wanted, tmp_path / "initrd", RELEASE], modules, tmp_path)
    assert loaders.DRACUT in loaders.systems(initrd.read(disk).tree)
    assert judged(disk).formats.keys() == {"vfio_pci", "mlx5_vfio_pci"}
    assert judged(disk).loaded.keys() == {"vfio_pci"}
    assert judged(disk, "rd.driver.pre=mlx5-vfio-pci").loaded.keys() == {"vfio_pci", "mlx5_vfio_pci"}
    assert judged(disk, "rd.hostonly=0").loaded.keys() == set()
