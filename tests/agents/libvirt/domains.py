"""Descriptions of domains as libvirt 9.0 prints them, for tests without libvirt."""

from __future__ import annotations

from luod.agents.libvirt.description import Description, read

PLAIN = """\
<domain type='kvm' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>
  <name>web</name>
  <uuid>2f4b9e3c-1f0f-4bb2-9d38-5f0a7d1b2c11</uuid>
  <memory unit='KiB'>2097153</memory>
  <currentMemory unit='KiB'>2097153</currentMemory>
  {domain}
  <vcpu placement='static'>2</vcpu>
  <os{os}>
    <type arch='x86_64' machine='pc-q35-7.2'>hvm</type>
    {firmware}
  </os>
  <cpu mode='custom' match='exact' check='none'>
    <model fallback='forbid'>qemu64</model>
    {cpu}
  </cpu>
  <devices>
    <emulator>/usr/bin/qemu-system-x86_64</emulator>
    <disk type='file' device='disk'>
      <driver name='qemu' type='qcow2'{driver}/>
      <source file='/var/lib/libvirt/images/web.qcow2'/>
      <target dev='vda' bus='virtio'/>
      {disk}
      <address type='pci' domain='0x0000' bus='0x04' slot='0x00' function='0x0'/>
    </disk>
    <interface type='network'>
      <mac address='52:54:00:6b:3c:58'/>
      <source network='default'/>
      <model type='virtio'/>
      <address type='pci' domain='0x0000' bus='0x01' slot='0x00' function='0x0'/>
    </interface>
    {devices}
    <memballoon model='{balloon}'/>
  </devices>
  {last}
</domain>
"""


def described(**parts: str) -> Description:
    """Returns a domain with these parts filled in; without any it can be carried."""
    given = dict.fromkeys(("domain", "os", "firmware", "cpu", "driver", "disk", "devices", "last"), "")
    return read(PLAIN.format(**{**given, "balloon": "none", **parts}))
