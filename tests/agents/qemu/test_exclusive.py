"""Which options two QEMUs of one guest cannot have at the same time."""

from __future__ import annotations

import pytest

from luod.agents.qemu.exclusive import exclusive


@pytest.mark.parametrize(
    "arguments",
    [
        ["-pidfile", "p"],
        ["-vnc", ":1"],
        ["-display", "vnc=:1"],
        ["-netdev", "tap,id=n,ifname=tap0"],
        ["-netdev", "user,id=n,hostfwd=tcp::2222-:22"],
        ["-netdev", '{"type":"user","id":"n","hostfwd":[{"str":"tcp::2222-:22"}]}'],
        ["-netdev", "stream,id=n,server=on,addr.type=unix,addr.path=s"],
        ["-serial", "tcp::5000,server,nowait"],
        ["-chardev", "socket,id=c,path=s,server=on,wait=off"],
        ["-qmp", "unix:q,server=on,wait=off"],
        ["-s"],
        ["-serial", "/dev/ttyS0"],
        ["-device", "vhost-vsock-pci,guest-cid=3"],
        ["-device", "vhost-user-blk-pci,chardev=c"],
        ["-netdev", "vhost-user,id=n,chardev=c"],
        ["-tpmdev", "emulator,id=t,chardev=c"],
        ["-device", "usb-redir,chardev=c"],
        ["-device", "virtio-input-host-pci,evdev=/dev/input/event0"],
        ["-device", "ipmi-bmc-extern,id=b,chardev=c"],
        ["-object", "input-linux,id=k,evdev=/dev/input/event0"],
        ["-object", "cryptodev-vhost-user,id=k,chardev=c"],
        ["-object", "rng-egd,id=r,chardev=c"],
        ["-display", "dbus"],
        ["-display", '{"type":"dbus"}'],
        ["-audiodev", "wav,id=a,path=out.wav"],
        ["-audiodev", "alsa,id=a"],
        ["-blockdev", "nvme,device=0000:01:00.0,namespace=1,node-name=d"],
        ["-blockdev", '{"driver":"raw","node-name":"d","file":{"driver":"nvme","device":"0000:01:00.0"}}'],
        ["-drive", "file=nvme://0000:01:00.0/1,format=raw"],
        ["-chardev", "serial,id=c,path=/dev/ttyS0"],
        ["-chardev", "braille,id=c"],
        ["-trace", "enable=*,file=t"],
    ],
)
def test_what_only_one_qemu_can_have_is_known(arguments: list[str]) -> None:
    assert exclusive(arguments) == (" ".join(arguments),)


@pytest.mark.parametrize(
    "arguments",
    [
        ["-netdev", "user,id=n"],
        ["-serial", "file:f"],
        ["-chardev", "socket,id=c,path=s"],
        ["-drive", "file=a.img"],
        ["-drive", "if=pflash,format=raw,unit=0,readonly=on,file=code.fd"],
        ["-pflash", "vars.fd"],
        ["-blockdev", "driver=file,filename=a.img,node-name=d"],
        ["-device", "nvme,drive=d,serial=1"],
        ["-object", "rng-random,id=r,filename=/dev/urandom"],
        ["-object", "iothread,id=i"],
        ["-audiodev", "pa,id=a"],
        ["-trace", "enable=*"],
        ["-display", "none"],
        ["-serial", "stdio"],
        ["-netdev", "stream,id=n,addr.type=unix,addr.path=s"],
    ],
)
def test_what_two_qemus_can_have_is_known(arguments: list[str]) -> None:
    assert exclusive(arguments) == ()
