"""luoctl as a user meets it: what it prints and how it ends, with no luod, and with something that is not luod.

With a real luod it is tested in test_luoctl_machine.py.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import pty
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

import pytest

from luod.ctl.exits import MEANINGS, Exit
from luod.ctl.main import main
from luod.ctl.output import escaped, size
from luod.testing.tools import for_root
from tests.impostor import Answer, Impostor, reply

LUOCTL: Final = [sys.executable, "-m", "luod.ctl.main"]
NOWHERE: Final = ["--socket", "/nowhere/luod.sock", "--admin-socket", "/nowhere/admin.sock"]
STATUS: Final = {
    "version": "9.9",
    "state": "idle",
    "boot": 3,
    "kernel_loaded": True,
    "command_line": "liveupdate=on kho=on",
    "sessions": 2,
    "waiting": 1,
    "retrieved": 0,
    "torn": 4,
    "participants": 5,
    "held_files": 8,
    "generation": 6,
    "stuck": [{"name": "vm", "reason": "it hung"}],
    "restore_seconds_left": 7.5,
    "policy_file": "/etc/luod/luod.toml",
    "policy_error": None,
    "state_directory": [{"path": "/state", "what": "it is read-only", "remedy": "remount it"}],
    "registry": [{"path": "", "what": "it is of another boot", "remedy": "nothing"}],
    "fd_store": [{"path": "PID 1", "what": "it may lack 2 files", "remedy": "wait"}],
}


def luoctl(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs luoctl in this process. Tests of its files, signals and terminals start a process of its own."""
    output, errors = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(errors):
        status = main(arguments)
    return subprocess.CompletedProcess(arguments, status, output.getvalue(), errors.getvalue())


@pytest.fixture(autouse=True)
def _writes_lines_of_80_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    """Has every luoctl write lines of this width, whatever the terminal of the test is."""
    monkeypatch.setenv("COLUMNS", "80")


def asked(impostor: Impostor, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs luoctl with the impostor's socket as both sockets."""
    return luoctl("--socket", impostor.path, "--admin-socket", impostor.path, *arguments)


def error_of(result: subprocess.CompletedProcess[str]) -> Any:
    """Returns the error object, which must be the last line. Standard error must have its message as one line."""
    error = json.loads(result.stdout.splitlines()[-1])
    assert error.keys() == {"version", "error", "message", "hint"}
    assert result.stderr == f"luoctl: {escaped(error['message'])}\n"
    assert error["version"] == 1
    return error


@pytest.mark.parametrize("command", ["status", "list", "load", "update"])
def test_without_luod_the_status_is_3(command: str, tmp_path: Path) -> None:
    image = tmp_path / "image"
    image.write_bytes(b"x")
    rest = ["--kernel", str(image)] if command == "load" else []
    result = luoctl(*NOWHERE, command, *rest)
    assert (result.returncode, result.stdout) == (3, "")
    assert result.stderr.startswith("luoctl: there is no luod at /nowhere/")
    assert "hint: start `luod`" in result.stderr
    result = luoctl(*NOWHERE, command, *rest, "--json")
    assert result.returncode == 3
    assert error_of(result)["error"] == "DaemonUnreachable"


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["frobnicate"],
        ["status", "--frobnicate"],
        ["load"],
        ["load", "--kernel"],
        ["update", "now"],
        ["carry-over"],
        ["status", "--admin"],
    ],
)
def test_a_wrong_command_line_is_2_and_shows_the_usage(arguments: list[str]) -> None:
    result = luoctl(*arguments)
    assert (result.returncode, result.stdout) == (2, "")
    assert "usage: luoctl" in result.stderr
    result = luoctl("--json", *arguments)
    assert result.returncode == 2
    assert error_of(result)["error"] == "Usage"


@pytest.mark.parametrize(
    ("arguments", "usage", "hint"),
    [
        (["sttus"], "usage: luoctl [-h]", "hint: did you mean status?"),
        (["--jsn", "status"], "usage: luoctl [-h]", "hint: did you mean --json?"),
        (["update", "--skip-unredy"], "usage: luoctl update [-h]", "hint: did you mean --skip-unready?"),
        (["--socket", "list", "load", "--kernl=x"], "usage: luoctl load [-h]", "hint: did you mean --kernel?"),
        (["help", "timelin"], "usage: luoctl help [-h]", "hint: did you mean timeline?"),
        (["status", "now"], "usage: luoctl status [-h]", ""),
        (["update", "--frobnicate"], "usage: luoctl update [-h]", ""),
    ],
)
def test_a_wrong_word_shows_the_usage_of_its_verb_and_the_nearest_word(
    arguments: list[str], usage: str, hint: str
) -> None:
    result = luoctl(*arguments)
    message, shown, *hints = result.stderr.splitlines()
    assert result.returncode == 2
    assert message.startswith("luoctl: ")
    assert shown.startswith(usage)
    assert hints == ([hint] if hint else [])


@pytest.mark.parametrize("word", ["soon", "0", "-1", "nan", "inf", "86401"])
def test_a_deadline_that_is_none_is_said_in_words(word: str) -> None:
    result = luoctl("update", f"--deadline={word}")
    assert result.returncode == 2
    assert f"'{word}' must be a positive number of seconds, at most 86400" in result.stderr


def test_help_and_version_need_no_luod() -> None:
    result = luoctl("--help")
    assert result.returncode == 0
    assert "exit status" in result.stdout
    assert luoctl("load", "--help").returncode == 0
    assert luoctl("--version").stdout.startswith("luoctl ")
    assert luoctl("help").stdout == result.stdout
    assert luoctl("help", "load").stdout == luoctl("load", "--help").stdout


def test_the_documents_have_the_table_of_exit_statuses() -> None:
    shown = luoctl("--help").stdout.partition("exit status:")[2]
    table = (Path(__file__).parents[2] / "docs/json.md").read_text()
    for code, meaning in MEANINGS.items():
        assert f"  {code.value:<4} {meaning}\n" in shown
        assert f"| {code.value} | {meaning} |" in table
    assert set(MEANINGS) == set(Exit)


def test_what_is_no_file_of_an_image_is_said_before_luod_is_asked(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    image = tmp_path / "image"
    image.write_bytes(b"x")
    for kernel, status, text in [
        (tmp_path / "nothing", 1, "No such file"),
        (tmp_path, 2, "not a regular file"),
        (tmp_path / "pipe", 2, "not a regular file"),
        (Path(os.devnull), 2, "not a regular file"),
    ]:
        for files in (["--kernel", str(kernel)], ["--kernel", str(image), "--initrd", str(kernel)]):
            with Impostor(tmp_path) as impostor:
                result = asked(impostor, "load", *files)
                assert (result.returncode, impostor.calls) == (status, [])
            assert str(kernel) in result.stderr
            assert text in result.stderr
            assert "hint: " in result.stderr


@pytest.mark.parametrize("line", ["x" * 5000, "x" * 100_000, "a\udcffb"])
def test_a_command_line_no_kernel_takes_is_usage(tmp_path: Path, line: str) -> None:
    image = tmp_path / "image"
    image.write_bytes(b"x")
    with Impostor(tmp_path) as impostor:
        result = asked(impostor, "load", "--kernel", str(image), "--cmdline", line, "--json")
    assert (result.returncode, impostor.calls) == (2, [])
    assert error_of(result)["error"] == "BadInput"


def test_load_passes_the_files_and_the_command_line(tmp_path: Path) -> None:
    image = tmp_path / "image"
    image.write_bytes(b"x")
    given = ["--kernel", str(image)]
    with Impostor(tmp_path, *[Answer(reply())] * 4) as impostor:
        result = asked(impostor, "load", *given, "--initrd", str(image), "--cmdline", "kho=on", "--json")
        assert result.returncode == 0, result.stderr
        assert json.loads(result.stdout) == {
            "version": 1,
            "kernel": str(image),
            "initrd": str(image),
            "initrds": [str(image)],
            "command_line": "kho=on",
            "changed": True,
        }
        assert asked(impostor, "load", *given, "--cmdline", "").returncode == 0
        assert asked(impostor, "load", *given).returncode == 0
        assert (
            asked(
                impostor, "load", *given, "--append-cmdline", "luod.test=1", "--append-cmdline", "second=2"
            ).returncode
            == 0
        )
    both, empty, reused, appended = (call["parameters"] for call in impostor.calls)
    assert both == {"kernel_fd": 0, "initrd_fd": 1, "command_line": "kho=on"}
    assert empty == {"kernel_fd": 0, "command_line": ""}
    words = [word for word in Path("/proc/cmdline").read_text().split() if not word.startswith("BOOT_IMAGE=")]
    assert reused["command_line"].split() == words
    end = words.index("--") if "--" in words else len(words)
    assert appended["command_line"].split() == [*words[:end], "luod.test=1", "second=2", *words[end:]]


@pytest.mark.parametrize("option", [["--append-cmdline", "quiet"], ["--reuse-cmdline"]])
def test_a_whole_command_line_and_the_running_one_contradict_each_other(tmp_path: Path, option: list[str]) -> None:
    image = tmp_path / "image"
    image.write_bytes(b"x")
    for command in ("load", "check", "update"):
        with Impostor(tmp_path) as impostor:
            result = asked(impostor, command, "--kernel", str(image), "--cmdline", "a", *option)
        assert (result.returncode, impostor.calls) == (2, [])
        assert option[0] in result.stderr
        assert "hint: " in result.stderr


@pytest.mark.parametrize(
    "option", [["--cmdline", ""], ["--append-cmdline", "a"], ["--reuse-cmdline"], ["--initrd", "/x"]]
)
def test_a_command_line_without_a_kernel_is_usage(tmp_path: Path, option: list[str]) -> None:
    with Impostor(tmp_path) as impostor:
        result = asked(impostor, "check", *option)
    assert (result.returncode, impostor.calls) == (2, [])
    assert "--kernel" in result.stderr


def test_status_as_text_and_as_json(tmp_path: Path) -> None:
    with Impostor(tmp_path, *[Answer(reply(STATUS))] * 2) as impostor:
        text = asked(impostor, "status")
        assert (text.returncode, text.stderr) == (0, "")
        assert [line.split()[0] for line in text.stdout.splitlines()] == [
            "luod",
            "state",
            "boot",
            "kernel",
            "outgoing",
            "incoming",
            "participants",
            "way",
            "restart",
            "stashed",
            "deadline",
            "stuck",
            "policy",
            "state",
            "fd",
            "registry",
        ]
        assert "luod 9.9 runs and" in text.stdout
        assert "liveupdate=on kho=on" in text.stdout
        assert "/state: it is read-only; remount it" in text.stdout
        assert "it is of another boot; nothing" in text.stdout
        assert "PID 1: it may lack 2 files; wait" in text.stdout
        assert json.loads(asked(impostor, "status", "--json").stdout) == {
            "version": 1,
            "luod": "9.9",
            "state": "idle",
            "boot": 3,
            "kernel_loaded": True,
            "command_line": "liveupdate=on kho=on",
            "sessions": 2,
            "waiting": 1,
            "retrieved": 0,
            "torn": 4,
            "participants": 5,
            "held_files": 8,
            "generation": 6,
            "stuck": [{"name": "vm", "reason": "it hung"}],
            "restore_seconds_left": 7.5,
            "policy_file": "/etc/luod/luod.toml",
            "policy_error": None,
            "state_directory": [{"path": "/state", "what": "it is read-only", "remedy": "remount it"}],
            "registry": [{"path": "", "what": "it is of another boot", "remedy": "nothing"}],
            "fd_store": [{"path": "PID 1", "what": "it may lack 2 files", "remedy": "wait"}],
            "undo": [],
            "way": "direct",
            "shutdown_lock": None,
            "outgoing_bytes": 0,
            "incoming_bytes": 0,
        }


EMPTY_IS_FINE: Final = {
    "command_line",
    "stuck",
    "restore_seconds_left",
    "policy_file",
    "policy_error",
    "state_directory",
    "registry",
    "fd_store",
}


@pytest.mark.parametrize("missing", [name for name in STATUS if name not in EMPTY_IS_FINE])
def test_a_status_without_a_member_is_no_answer(tmp_path: Path, missing: str) -> None:
    odd: object
    for odd in (None, [], "x" if isinstance(STATUS[missing], int) else 1):
        with Impostor(tmp_path, Answer(reply({**STATUS, missing: odd}))) as impostor:
            result = asked(impostor, "--json", "status")
        assert result.returncode == 1
        assert error_of(result)["error"] == "ProtocolError"


FOREIGN: Final = "\x1b[31mred\x1b[0m\n\u202etext [bold]x[/bold] \\"


def test_foreign_names_are_escaped(tmp_path: Path) -> None:
    entry = {"name": FOREIGN, "owner": 0, "direction": "incoming", "state": "waiting"}
    with Impostor(tmp_path, *[Answer(reply({"sessions": [entry]}))] * 2) as impostor:
        text = asked(impostor, "list")
        assert text.returncode == 0
        lines = text.stdout.splitlines()
        assert len(lines) == 2
        assert lines[1].startswith("\\x1b[31mred\\x1b[0m\\n\\u202etext [bold]x[/bold] \\\\  0 ")
        as_json = asked(impostor, "list", "--json")
        assert json.loads(as_json.stdout)["sessions"] == [entry]
        assert as_json.stdout.isascii()
    with Impostor(
        tmp_path, Answer(reply({"message": FOREIGN, "hint": FOREIGN}, error="io.luod.Admin.Busy"))
    ) as impostor:
        result = asked(impostor, "status")
    assert "\x1b" not in result.stderr
    assert result.stderr.count("\n") == 2


def test_on_a_terminal_the_sessions_are_a_table(tmp_path: Path) -> None:
    entry = {"name": FOREIGN, "owner": 0, "direction": "incoming", "state": "waiting"}
    with Impostor(tmp_path, Answer(reply({"sessions": [entry]}))) as impostor:
        screen, terminal = pty.openpty()
        try:
            command = [*LUOCTL, "list", "--socket", impostor.path]
            environment = {**os.environ, "COLUMNS": "200", "TERM": "xterm"}
            subprocess.run(command, stdout=terminal, stderr=terminal, env=environment, check=True)
            shown = os.read(screen, 65536).decode()
        finally:
            os.close(screen)
            os.close(terminal)
    assert "DIRECTION" in shown
    assert "\\x1b[31mred\\x1b[0m\\n\\u202etext [bold]x[/bold]" in shown
    assert "\x1b[31m" not in shown


def test_no_sessions_is_a_head_alone(tmp_path: Path) -> None:
    with Impostor(tmp_path, Answer(reply({"sessions": []}))) as impostor:
        assert asked(impostor, "list").stdout.split() == ["NAME", "OWNER", "DIRECTION", "STATE"]


def test_names_alone_are_a_line_each(tmp_path: Path) -> None:
    entry = {"name": "vm", "owner": 0, "direction": "incoming", "state": "waiting"}
    both = [entry, {**entry, "direction": "outgoing"}, {**entry, "name": "vm-2"}]
    with Impostor(tmp_path, Answer(reply({"sessions": both}))) as impostor:
        assert asked(impostor, "list", "--names").stdout == "vm\nvm-2\n"


def test_no_such_session_has_a_status_of_its_own(tmp_path: Path) -> None:
    for verb in ("show", "discard", "release", "carry-over"):
        with Impostor(tmp_path, Answer(reply(error="io.luod.Sessions.NoSuchSession"))) as impostor:
            result = asked(impostor, "--json", verb, "vm")
        assert (result.returncode, error_of(result)["error"]) == (7, "NoSuchSession")


ENDINGS: Final[dict[str, tuple[list[bytes], int, str | None]]] = {
    "systemd does the kexec": ([reply({"state": "jumping", "way": "systemd"}, continues=True)], 0, None),
    "it jumps, and says so last": ([reply({"state": "jumping"})], 0, None),
    "luod dies before it jumps": ([reply({"state": "preparing"}, continues=True)], 3, "DaemonUnreachable"),
    "luod dies at once": ([], 3, "DaemonUnreachable"),
    "it is cancelled": ([reply({"state": "cancelled"})], 5, None),
    "it ends, nobody knows why": ([reply({"state": "idle"})], 1, "LuodError"),
    "nothing is loaded": ([reply(error="io.luod.Admin.NotLoaded")], 4, "NoImageLoaded"),
    "another one runs": ([reply(error="io.luod.Admin.UpdateRunning")], 6, "UpdateRunning"),
    "luod declines": ([reply({"message": "no"}, error="io.luod.Admin.Refused")], 4, "Refused"),
    "this user may not": ([reply(error="org.varlink.service.PermissionDenied")], 4, "PermissionDenied"),
    "reboot fails": (
        [
            reply({"state": "preparing"}, continues=True),
            reply({"state": "jumping"}, continues=True),
            reply({"call": "reboot", "errno": 16, "meaning": "busy"}, error="io.luod.Admin.KernelRefused"),
        ],
        1,
        "KernelRefused",
    ),
    "a state that is none": ([reply({"state": 5}, continues=True)], 1, "ProtocolError"),
}


@pytest.mark.parametrize(("answers", "status", "error"), ENDINGS.values(), ids=ENDINGS)
def test_how_an_update_ends(tmp_path: Path, answers: list[bytes], status: int, error: str | None) -> None:
    with Impostor(tmp_path, *[Answer(*answers)] * 2) as impostor:
        text = asked(impostor, "update")
        result = asked(impostor, "update", "--json")
    assert (text.returncode, result.returncode) == (status, status)
    assert bool(text.stderr) == (error is not None)
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    assert all(line["version"] == 1 for line in lines)
    if error is not None:
        assert error_of(result)["error"] == error
    assert impostor.calls[0] == {"method": "io.luod.Admin.Update", "more": True}


PARTICIPANT: Final = {
    "id": 1,
    "name": "vm",
    "uid": 0,
    "pid": 7,
    "sessions": ["vm"],
    "bytes": 4096,
    "standing": "awaited",
    "reason": None,
    "seconds": 0.5,
}


def progress(state: str, *standings: str, **members: Any) -> bytes:
    """Returns a reply of Update with the standings of the numbered participants."""
    participants = [
        {**PARTICIPANT, "id": number, "name": f"vm-{number}", "standing": standing}
        for number, standing in enumerate(standings)
    ]
    rest = {"update": "u", "generation": 2, "seconds_left": None, "torn": [], "reason": None}
    return reply({"state": state, "participants": participants, **rest, **members}, continues=state != "cancelled")


def test_without_a_terminal_each_change_is_a_line(tmp_path: Path) -> None:
    answers = [
        progress("preparing", "awaited", "awaited", seconds_left=29.6),
        progress("preparing", "ready", seconds_left=29.0),
        progress("preparing", "ready", "lost", torn=["vm-1"]),
        progress("freezing", "awaited", seconds_left=30.0, torn=["vm-1"]),
        progress("freezing", "ready", torn=["vm-1"]),
        progress("cancelled", "vetoed", reason="vm-0 vetoes: \x1b no"),
    ]
    with Impostor(tmp_path, Answer(*answers)) as impostor:
        result = asked(impostor, "update", "--deadline", "30", "--skip-unready")
    assert result.returncode == 5
    assert [line[12:] for line in result.stdout.splitlines()] == [
        "preparing: 2 participants, 30 s",
        "vm-0 ready",
        "vm-1 lost",
        "will be torn: vm-1",
        "freezing: 2 participants, 30 s",
        "vm-0 ready",
        "cancelled: vm-0 vetoes: \\x1b no",
    ]
    wishes = {"deadline": 30.0, "skip_unready": True}
    assert impostor.calls == [{"method": "io.luod.Admin.Update", "parameters": wishes, "more": True}]


def test_on_a_terminal_a_table_says_who_is_awaited(tmp_path: Path) -> None:
    answers = [
        progress("preparing", "ready", "awaited", seconds_left=29.6),
        progress("cancelled", "ready", "vetoed", reason="vm-1 vetoes: [red]no[/red]", torn=["vm-9"]),
    ]
    primary, terminal = os.openpty()
    with Impostor(tmp_path, Answer(*answers)) as impostor, open(primary, "rb", buffering=0) as screen:
        command = [*LUOCTL, "--admin-socket", impostor.path, "update"]
        environment = {**os.environ, "COLUMNS": "120", "TERM": "xterm"}
        done = subprocess.run(command, stdout=terminal, stderr=subprocess.PIPE, env=environment, check=False)
        os.close(terminal)
        shown = b""
        with contextlib.suppress(OSError):  # EIO: the terminal's other end is closed, and everything was read
            while chunk := screen.read(65536):
                shown += chunk
    assert (done.returncode, done.stderr) == (5, b"")
    text = shown.decode()
    assert "PARTICIPANT" in text
    assert "[red]no[/red]" in text
    assert "will be torn" not in text
    last = text[text.rindex("PARTICIPANT") :]
    assert last.index("vm-1") < last.index("vm-0")


def test_abort(tmp_path: Path) -> None:
    with Impostor(tmp_path, Answer(reply({})), Answer(reply(error="io.luod.Admin.NoUpdate"))) as impostor:
        assert asked(impostor, "abort").returncode == 0
        assert asked(impostor, "abort").returncode == 4
    assert impostor.calls[0] == {"method": "io.luod.Admin.Abort"}


def test_states_are_printed_as_they_come(tmp_path: Path) -> None:
    with Impostor(tmp_path, Answer(reply({"state": "preparing"}, continues=True), hold=True)) as impostor:
        command = [*LUOCTL, "update", "--json", "--admin-socket", impostor.path]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            assert process.stderr is not None
            assert json.loads(process.stdout.readline())["state"] == "preparing"
            process.send_signal(signal.SIGINT)
            assert process.wait() == 130
            assert process.stderr.read() == ""


@pytest.mark.parametrize(
    ("state", "last"),
    [
        ("preparing", "interrupted: luod cancels the update\n"),
        ("jumping", "interrupted: luod cannot cancel the update any more\n"),
    ],
)
def test_an_interrupt_says_what_becomes_of_the_update(tmp_path: Path, state: str, last: str) -> None:
    with Impostor(tmp_path, Answer(reply({"state": state}, continues=True), hold=True)) as impostor:
        command = [*LUOCTL, "update", "--admin-socket", impostor.path]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            assert process.stdout.readline().endswith(f"{state}\n")
            process.send_signal(signal.SIGINT)
            assert (process.stdout.read(), process.wait()) == (last, 130)


def test_a_reader_that_leaves_is_no_traceback(tmp_path: Path) -> None:
    entries = [{"name": "x" * 63, "owner": 0, "direction": "outgoing", "state": "held"}] * 5000
    with Impostor(tmp_path, *[Answer(reply({"sessions": entries}))] * 2) as impostor:
        for option in ([], ["--json"]):
            command = [*LUOCTL, "list", *option, "--socket", impostor.path]
            with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
                assert process.stdout is not None
                assert process.stderr is not None
                process.stdout.read(10)
                process.stdout.close()
                assert process.stderr.read() == ""
                assert process.wait() == 1


FULL: Final[dict[str, tuple[list[str], int]]] = {
    "text": (["status"], 1),
    "JSON": (["--json", "status"], 1),
    "an error as JSON": (["--json", "--admin-socket", "/nowhere", "status"], 1),
    "an error as text": (["--admin-socket", "/nowhere", "status"], 3),
    "help": (["--help"], 1),
}


@pytest.mark.parametrize(("arguments", "status"), FULL.values(), ids=FULL)
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_output_that_cannot_be_written_is_a_failure(
    tmp_path: Path, arguments: list[str], status: int, unbuffered: str
) -> None:
    with Impostor(tmp_path, Answer(reply(STATUS))) as impostor, open("/dev/full", "wb") as full:
        result = subprocess.run(
            [*LUOCTL, "--admin-socket", impostor.path, *arguments],
            env={**os.environ, "PYTHONUNBUFFERED": unbuffered},
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert result.returncode == status
    assert result.stderr.count("No space left on device") == (status == 1)
    assert "Traceback" not in result.stderr


def test_without_standard_output_only_the_status_is_told(tmp_path: Path) -> None:
    with Impostor(tmp_path, Answer(reply(STATUS))) as impostor:
        command = ["sh", "-c", 'exec "$@" >&-', "sh", *LUOCTL, "status", "--admin-socket", impostor.path]
        result = subprocess.run(command, stderr=subprocess.PIPE, text=True, check=False)
    assert (result.returncode, result.stderr) == (0, "")


def test_without_standard_error_no_text_comes_among_the_json() -> None:
    command = ["sh", "-c", 'exec "$@" 2>&-', "sh", *LUOCTL, "--json", "--admin-socket", "/nowhere", "status"]
    result = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    assert result.returncode == 3
    (line,) = result.stdout.splitlines()
    assert json.loads(line)["error"] == "DaemonUnreachable"


def test_a_letter_that_the_locale_lacks_is_no_failure(tmp_path: Path) -> None:
    with Impostor(tmp_path, Answer(progress("cancelled", reason="vm vetoes: \u00e4"))) as impostor:
        result = subprocess.run(
            [*LUOCTL, "--admin-socket", impostor.path, "update"],
            env={**os.environ, "PYTHONIOENCODING": "ascii"},
            capture_output=True,
            text=True,
            check=False,
        )
    assert (result.returncode, result.stderr) == (5, "")
    assert result.stdout.endswith("cancelled: vm vetoes: \\xe4\n")


def test_commands_of_root_go_to_the_socket_that_is_given_and_not_to_the_luod_at_the_default_one(
    tmp_path: Path,
) -> None:
    """The socket for programs does not know them."""
    for_root("whose default is another socket")
    with Impostor(tmp_path, Answer(reply(error="org.varlink.service.InterfaceNotFound"))) as impostor:
        result = luoctl("--socket", impostor.path, "update")
    assert (result.returncode, len(impostor.calls)) == (2, 1)
    assert f"{impostor.path} is luod's socket for programs" in result.stderr
    assert "--admin-socket" in result.stderr


def test_a_dry_run_with_a_kernel_shows_participants_and_what_would_be_torn(tmp_path: Path) -> None:
    image = tmp_path / "image"
    image.write_bytes(b"x")
    checked = {"refused": False, "release": "7.3", "findings": [], "participants": [PARTICIPANT], "torn": ["vm-9"]}
    with Impostor(tmp_path, Answer(reply(checked))) as impostor:
        result = asked(impostor, "update", "--dry-run", "--kernel", str(image), "--cmdline", "")
    assert result.returncode == 0
    assert [line[12:] for line in result.stdout.splitlines()] == ["checked: 1 participant", "will be torn: vm-9"]


def test_sizes_that_only_a_sum_can_have_are_sizes_too() -> None:
    assert [size(1023), size(1024), size(2**70), size(2**80)] == ["1023 B", "1 KiB", "1024 EiB", "1048576 EiB"]
