"""What a program gets from luod itself, through either surface, on an emulated machine, jumps included.

What the surfaces make of answers that are not luod's is in test_client.py.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from luod.testing.plugin import BootMachine
from luod.testing.tools import for_root
from tests.daemon.host import Luod, states
from tests.library import Vmm

Start = Callable[..., Vmm]
SURFACES = ["blocking", "asyncio"]


@pytest.fixture(params=SURFACES)
def start(request: pytest.FixtureRequest) -> Start:
    """Starts a program that talks to the luod of a luod."""

    return partial(Luod.vmm, surface=request.param)


def is_free(vmm: Vmm, file: str) -> bool:
    """Returns whether no session preserves `file`, so that another could."""
    vmm.call("create", name="probe", slot="probe")
    answer = vmm.ask("library", call="preserve", session="probe", file=file, token=1)
    vmm.call("release", session="probe")
    assert answer.get("error") in (None, "FileAlreadyPreserved"), answer
    return "error" not in answer


def test_a_session_goes_over_the_jump_and_is_finished(luod: Luod, start: Start) -> None:
    vmm = start(luod)
    vmm.call("create", name="vm", slot="s")
    digest = vmm.memfd("ram", size=1 << 20, seed=1)
    vmm.call("preserve", session="s", file="ram", token=7, name="ram")
    assert states(vmm) == {"outgoing vm": "held"}
    luod.jump()
    vmm = start(luod)
    assert states(vmm) == {"incoming vm": "waiting"}
    vmm.call("retrieve_session", name="vm", slot="s")
    assert states(vmm) == {"incoming vm": "retrieved"}
    vmm.call("retrieve", session="s", file="ram", slot="ram")
    assert vmm.ask("digest", fd="ram") == digest
    vmm.call("finish", session="s")
    assert vmm.call("closed", session="s")
    assert states(vmm) == {}
    assert vmm.refused("retrieve_session", name="vm", slot="again").kind == "NoSuchSession"


def test_a_vmm_started_again_gets_the_same_session(luod: Luod, start: Start) -> None:
    vmm = start(luod)
    vmm.call("create", name="vm", slot="s")
    digest = vmm.memfd("ram", seed=2)
    vmm.call("preserve", session="s", file="ram", token=1)
    vmm.program.kill()
    luod.jump()
    for _ in range(2):
        vmm = start(luod)
        vmm.call("retrieve_session", name="vm", slot="s")
        vmm.call("retrieve", session="s", file=1, slot="ram")
        assert vmm.ask("digest", fd="ram") == digest
        vmm.program.kill()
    assert states(start(luod)) == {"incoming vm": "retrieved"}


def test_finish_refuses_to_drop_what_was_not_retrieved(luod: Luod, start: Start) -> None:
    vmm = start(luod)
    vmm.call("create", name="vm", slot="s")
    for token in (1, 2, 3):
        vmm.memfd(f"m{token}", seed=token)
        vmm.call("preserve", session="s", file=f"m{token}", token=token)
    luod.jump()
    vmm = start(luod)
    vmm.call("retrieve_session", name="vm", slot="s")
    vmm.call("retrieve", session="s", file=2, slot="m2")
    error = vmm.refused("finish", session="s")
    assert (error.kind, error.tokens) == ("NotRetrieved", (1, 3))
    assert states(vmm) == {"incoming vm": "retrieved"}
    vmm.call("retrieve", session="s", file=1, slot="m1")
    vmm.call("finish", session="s", discard=True)
    assert states(vmm) == {}


def test_without_a_manifest_finish_asks_for_the_tokens(luod: Luod, start: Start) -> None:
    vmm = start(luod)
    vmm.call("create", name="vm", slot="s", manifest=False)
    vmm.memfd("m", seed=1)
    vmm.call("preserve", session="s", file="m", token=1)
    luod.jump()
    vmm = start(luod)
    vmm.call("retrieve_session", name="vm", slot="s")
    assert vmm.refused("finish", session="s").kind == "ContentsUnknown"
    assert vmm.refused("finish", session="s", tokens=[1]).tokens == (1,)
    vmm.call("retrieve", session="s", file=1, slot="m")
    vmm.call("finish", session="s", tokens=[1])
    assert states(vmm) == {}


def test_luod_checks_that_a_session_is_finished(luod: Luod, start: Start) -> None:
    vmm = start(luod)
    vmm.call("create", name="vm", slot="s")
    vmm.memfd("m", seed=1)
    vmm.call("preserve", session="s", file="m", token=1)
    luod.jump()
    vmm = start(luod)
    vmm.call("retrieve_session", name="vm", slot="s")
    error = vmm.refused("release_named", name="vm", direction="incoming", finished=True)
    assert error.kind == "CallFailed"
    vmm.call("retrieve", session="s", file=1, slot="m")
    vmm.call("finish_without_luod", session="s")
    assert states(vmm) == {"incoming vm": "retrieved"}
    vmm.call("finish", session="s")
    assert vmm.call("closed", session="s")
    assert states(vmm) == {}
    vmm.call("finish", session="s")


def test_finish_is_repeated_when_luod_could_not_be_told(luod: Luod, start: Start) -> None:
    vmm = start(luod)
    vmm.call("create", name="vm", slot="s")
    vmm.memfd("m", seed=1)
    vmm.call("preserve", session="s", file="m", token=1)
    luod.jump()
    vmm = start(luod)
    vmm.call("retrieve_session", name="vm", slot="s")
    vmm.call("retrieve", session="s", file=1, slot="m")
    luod.stop()
    assert vmm.refused("finish", session="s").kind == "DaemonUnreachable"
    assert vmm.call("finished", session="s")
    assert not vmm.call("closed", session="s")
    luod.start()
    vmm.call("finish", session="s")
    assert vmm.call("closed", session="s")
    assert states(vmm) == {}


def test_a_session_given_up_is_gone_with_what_was_not_retrieved(luod: Luod, start: Start) -> None:
    vmm = start(luod)
    digests = preserved(vmm, 1, 2)
    luod.jump()
    vmm = start(luod)
    vmm.call("retrieve_session", name="vm", slot="s")
    vmm.call("retrieve", session="s", file=1, slot="m1")
    vmm.call("release", session="s")
    assert vmm.ask("digest", fd="m1") == digests[1]
    assert states(vmm) == {}
    assert vmm.refused("retrieve_session", name="vm", slot="again").kind == "NoSuchSession"


def test_what_a_vmm_left_in_this_kernel_is_discarded(luod: Luod, start: Start) -> None:
    vmm = start(luod)
    preserved(vmm, 1)
    vmm.program.kill()
    vmm = start(luod)
    assert vmm.refused("create", name="vm", slot="s").kind == "SessionExists"
    assert vmm.call("discard", name="vm") == ["vm"]
    assert vmm.call("discard", name="vm") == []
    vmm.call("create", name="vm", slot="s")


def test_a_released_session_is_gone_with_what_it_preserved(luod: Luod, start: Start) -> None:
    vmm = start(luod)
    vmm.call("create", name="vm", slot="s")
    vmm.memfd("m", seed=1)
    vmm.call("preserve", session="s", file="m", token=1)
    assert not is_free(vmm, "m")
    assert vmm.refused("create", name="vm", slot="t").kind == "SessionExists"
    vmm.call("release", session="s")
    assert vmm.call("closed", session="s")
    assert is_free(vmm, "m")
    vmm.call("create", name="vm", slot="s")
    vmm.call("close", session="s")
    vmm.call("release", session="s")
    assert states(vmm) == {}
    assert vmm.refused("release", session="s").kind == "NoSuchSession"


def test_names_luod_does_not_take_are_bad_input(luod: Luod, start: Start) -> None:
    vmm = start(luod)
    for name in ("", "x" * 64, "a b", "luod-registry", "systemd", "a\nb", "\udcff", "\0", "é"):
        assert vmm.refused("create", name=name, slot="s").kind == "BadInput", name
    assert states(vmm) == {}


def test_somebody_elses_session_is_no_session(luod: Luod, start: Start) -> None:
    for_root("for several users in one machine")
    vmm = start(luod)
    vmm.call("create", name="vm", slot="s")
    other = start(luod, user=1000)
    assert states(other) == {}
    assert other.refused("release_named", name="vm").kind == "NoSuchSession"
    assert other.call("discard", name="vm") == []
    assert other.refused("retrieve_session", name="vm", slot="s").kind == "NoSuchSession"


# -- letting go of a file --------------------------------------------------------------------------------------------


def preserved(vmm: Vmm, *tokens: int) -> dict[int, str]:
    """Makes a session "vm" with a named file under each token, and returns their digests."""
    vmm.call("create", name="vm", slot="s")
    digests = {token: vmm.memfd(f"m{token}", seed=token) for token in tokens}
    for token in tokens:
        vmm.call("preserve", session="s", file=f"m{token}", token=token, name=f"file {token}")
    return digests


def carried(luod: Luod, start: Start) -> dict[str, str]:
    """Returns the digests in session "vm" after one live update, by name in the manifest."""
    luod.jump()
    vmm = start(luod)
    vmm.call("retrieve_session", name="vm", slot="s")
    found = {}
    for entry in vmm.call("contents", session="s"):
        vmm.call("retrieve", session="s", file=entry["token"], slot=f"m{entry['token']}")
        found[entry["name"]] = vmm.ask("digest", fd=f"m{entry['token']}")
    vmm.call("finish", session="s")
    return found


@pytest.mark.parametrize("surface", SURFACES)
def test_unpreserve_where_the_machine_has_it(boot_machine: BootMachine, tmp_path: Path, surface: str) -> None:
    luod = Luod(boot_machine(profile="document"), state_directory=tmp_path / "state")
    luod.start()
    vmm = luod.vmm(surface=surface)
    digests = preserved(vmm, 1, 2)
    vmm.call("unpreserve", session="s", token=1)
    assert is_free(vmm, "m1")
    luod.jump()
    vmm = luod.vmm(surface=surface)
    vmm.call("retrieve_session", name="vm", slot="s")
    assert [entry["token"] for entry in vmm.call("contents", session="s")] == [2]
    assert vmm.refused("retrieve", session="s", file=1, slot="m1").kind == "NoSuchToken"
    vmm.call("retrieve", session="s", file=2, slot="m2")
    assert vmm.ask("digest", fd="m2") == digests[2]
    vmm.call("finish", session="s")


def test_replace_lets_go_of_a_file_and_keeps_the_others(luod: Luod, start: Start) -> None:
    vmm = start(luod)
    digests = preserved(vmm, 1, 2, 3)
    assert vmm.refused("unpreserve", session="s", token=2).kind == "UnpreserveUnavailable"
    vmm.call("replace", session="s", files={"3": "m3", "1": "m1"}, drop=[2])
    assert vmm.call("tokens", session="s") == [3, 1]
    assert is_free(vmm, "m2")
    assert not is_free(vmm, "m1")
    assert states(vmm) == {"outgoing vm": "held"}
    assert carried(luod, start) == {"file 3": digests[3], "file 1": digests[1]}


def test_replace_puts_another_file_under_a_token(luod: Luod, start: Start) -> None:
    vmm = start(luod)
    digests = preserved(vmm, 1, 2)
    larger = vmm.memfd("larger", size=1 << 20, seed=9)
    added = vmm.memfd("added", seed=10)
    vmm.call("replace", session="s", files={"1": "larger", "2": "m2", "5": "added"})
    assert carried(luod, start) == {"file 1": larger, "file 2": digests[2], None: added}


def test_replace_names_the_files_that_would_be_lost(luod: Luod, start: Start) -> None:
    vmm = start(luod)
    digests = preserved(vmm, 1, 2, 3)
    vmm.ask("make", kind="/dev/null", slot="null")
    error = vmm.refused("replace", session="s", files={"2": "m2"})
    assert (error.kind, error.tokens) == ("FilesMissing", (1, 3))
    assert error.hint
    for wrong in (
        {"files": {"1": "m1", "2": "m2"}, "drop": [2, 3]},
        {"files": {"1": "m1", "2": "m2", "3": "m3"}, "drop": [4]},
        {"files": {"1": "m1", "2": "m1"}, "drop": [3]},
        {"files": {"1": "m1", "2": "m2", "3": "m3", str(2**64): "null"}},
        {"files": {"1": "m1", "2": "m2", "3": "m3", str(2**64 - 2): "null"}},
        {"files": {"1": "m1", "2": "m2", "3": 999}},
    ):
        assert vmm.refused("replace", session="s", **wrong).kind == "BadInput", wrong
    assert carried(luod, start) == {f"file {token}": digest for token, digest in digests.items()}


def test_replace_with_a_file_the_kernel_refuses_frees_the_name(luod: Luod, start: Start) -> None:
    vmm = start(luod)
    preserved(vmm, 1, 2)
    vmm.ask("make", kind="/dev/null", slot="null")
    error = vmm.refused("replace", session="s", files={"1": "m1", "2": "null"})
    assert (error.kind, error.errno) == ("FileNotPreservable", "ENOENT")
    assert vmm.call("closed", session="s")
    assert states(vmm) == {}
    assert is_free(vmm, "m1")
    vmm.call("create", name="vm", slot="s")
    vmm.call("preserve", session="s", file="m1", token=1)


def test_replace_with_a_copy_open_elsewhere_says_so(luod: Luod, start: Start) -> None:
    vmm = start(luod)
    preserved(vmm, 1)
    vmm.call("fd", session="s", slot="copy")
    assert vmm.refused("replace", session="s", files={"1": "m1"}).kind == "SessionExists"
    assert states(vmm) == {"outgoing vm": "dropped"}
    vmm.ask("close", fd="copy")
    vmm.call("replace", session="s", files={"1": "m1"})
    assert vmm.call("tokens", session="s") == [1]
    assert states(vmm) == {"outgoing vm": "held"}


# -- luod comes and goes ---------------------------------------------------------------------------------------------


def test_a_luod_that_was_ended_is_unreachable(luod: Luod, start: Start) -> None:
    vmm = start(luod)
    luod.stop()
    error = vmm.refused("create", name="vm", slot="s")
    assert error.kind == "DaemonUnreachable"
    assert error.hint
