"""What is read of Ansible's output: the hosts of an inventory in order, and what a run counted."""

from __future__ import annotations

import pytest

from luod.errors import AnsibleFailed
from luod.fleet.ansible import Addressed, Recap, hosts_of, recap

RUN = """\
TASK [one] *****
fatal: [h2]: FAILED! => {"changed": false, "msg": "the first reason"}

TASK [two] *****
fatal: [h2]: FAILED! => {"changed": false, "msg": "refused: guest-1 vetoes"}

PLAY RECAP *********************************************************************
h1                         : ok=13   changed=2    unreachable=0    failed=0    skipped=6    rescued=0    ignored=0
h2                         : ok=3    changed=0    unreachable=0    failed=1    skipped=6    rescued=1    ignored=0
h3                         : ok=0    changed=0    unreachable=1    failed=0    skipped=0    rescued=0    ignored=0
"""


def test_hosts_come_in_the_order_of_the_inventory_with_their_addresses() -> None:
    listed = {
        "all": {"children": ["ungrouped", "racks"]},
        "racks": {"children": ["b", "a"]},
        "b": {"hosts": ["h3"]},
        "a": {"hosts": ["h1", "h3"]},
        "_meta": {"hostvars": {"h1": {"ansible_host": "192.0.2.1"}}},
    }
    assert hosts_of(listed) == (Addressed("h3", "h3"), Addressed("h1", "192.0.2.1"))


def test_the_recap_has_the_last_reason_of_each_failed_host() -> None:
    assert recap(RUN.splitlines()) == {
        "h1": Recap(2, False),
        "h2": Recap(0, True, "refused: guest-1 vetoes"),
        "h3": Recap(0, True),
    }


def test_a_run_without_a_recap_is_a_failure() -> None:
    with pytest.raises(AnsibleFailed):
        recap(["ERROR! the playbook: update.yml could not be found"])
