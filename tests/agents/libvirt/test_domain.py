"""What libvirt prints about a domain, and as whom it runs QEMU, is understood."""

from __future__ import annotations

import os
import subprocess

import pytest

from luod.agents.libvirt.domain import DomainQemu, Facts, check_name, read_facts, read_user
from luod.agents.libvirt.lent import User
from luod.agents.libvirt.monitor import answer
from luod.errors import QemuRefusal, QmpFailed, QmpUnknown
from luod.linux import Fd, memfd
from tests.agents.libvirt.domains import described

DOMINFO = """\
Id:             {id}
Name:           web
UUID:           2f4b9e3c-1f0f-4bb2-9d38-5f0a7d1b2c11
OS Type:        hvm
State:          {state}
CPU(s):         2
Max memory:     2097153 KiB
Used memory:    2097153 KiB
Persistent:     {persistent}
Autostart:      {autostart}
Managed save:   {saved}
Security model: none
Security DOI:   0
"""
CAPABILITIES = """\
<capabilities><host>
  <secmodel><model>apparmor</model><doi>0</doi></secmodel>
  <secmodel>
    <model>dac</model><doi>0</doi>
    <baselabel type='kvm'>+64055:+994</baselabel>
    <baselabel type='qemu'>+64055:+64055</baselabel>
  </secmodel>
</host></capabilities>
"""


@pytest.mark.parametrize(
    ("state", "persistent", "autostart", "saved", "facts"),
    [
        ("running", "yes", "disable", "no", Facts(True, True, False, False)),
        ("paused", "no", "disable", "no", Facts(True, False, False, False)),
        ("shut off", "yes", "enable", "yes", Facts(False, True, True, True)),
        ("crashed", "yes", "disable", "no", Facts(False, True, False, False)),
    ],
)
def test_the_facts_of_a_domain_are_those_of_dominfo(
    state: str, persistent: str, autostart: str, saved: str, facts: Facts
) -> None:
    printed = DOMINFO.format(id="-", state=state, persistent=persistent, autostart=autostart, saved=saved)
    assert read_facts(printed) == facts


@pytest.mark.parametrize(
    "name", ["7", "007", "2f4b9e3c-1f0f-4bb2-9d38-5f0a7d1b2c11", "2f4b9e3c1f0f4bb29d385f0a7d1b2c11----"]
)
def test_a_name_by_which_virsh_may_find_another_domain_is_refused(name: str) -> None:
    with pytest.raises(QemuRefusal, match="id or the UUID"):
        check_name(name)


@pytest.mark.parametrize("name", ["web", "7a", "-7", "2f4b9e3c", "web-2f4b9e3c-1f0f-4bb2-9d38-5f0a7d1b"])
def test_another_name_is_not(name: str) -> None:
    check_name(name)


def test_qemu_runs_as_the_user_that_libvirt_has_for_this_kind_of_domain() -> None:
    assert read_user(CAPABILITIES, described()) == User(64055, 994)


def test_the_label_of_a_domain_counts_more() -> None:
    label = "<seclabel type='static' model='dac'><label>root:+7</label></seclabel>"
    assert read_user(CAPABILITIES, described(last=label)) == User(0, 7)


def test_a_user_that_this_host_does_not_have_is_refused() -> None:
    label = "<seclabel type='static' model='dac'><label>no-such-user:+7</label></seclabel>"
    with pytest.raises(QemuRefusal, match="no-such-user"):
        read_user(CAPABILITIES, described(last=label))


def test_an_answer_of_qemu_is_in_what_virsh_prints() -> None:
    assert answer("query-status", '{"return":{"status":"running"},"id":"libvirt-12"}\n') == {"status": "running"}


def test_what_qemu_refuses_is_an_error_with_its_words() -> None:
    with pytest.raises(QmpFailed, match="getfd: No file descriptor supplied via SCM_RIGHTS"):
        answer(
            "getfd",
            '{"id":"libvirt-9","error":{"class":"GenericError","desc":"No file descriptor supplied via SCM_RIGHTS"}}',
        )


@pytest.mark.parametrize("printed", ["", "[]", "{}", '{"error":{}}', "null"])
def test_an_answer_of_another_form_is_an_error(printed: str) -> None:
    with pytest.raises(QmpUnknown):
        answer("stop", printed)


def test_a_qemu_on_other_memory_than_the_agents_is_refused() -> None:
    with memfd("ram", 0) as ram, memfd("ram", 0) as other:
        process = subprocess.Popen(["sleep", "infinity"], pass_fds=[ram.fileno()])
        try:
            with DomainQemu("web", process.pid, Fd(os.pidfd_open(process.pid))) as qemu:
                qemu.require(ram)
                with pytest.raises(QemuRefusal, match="runs on other memory"):
                    qemu.require(other)
        finally:
            process.kill()
            process.wait()
