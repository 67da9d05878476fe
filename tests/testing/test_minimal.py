"""The packages of the README's first line suffice: tests run no program that a minimal Debian lacks, unless by name."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

TESTS = Path(__file__).parents[1]
INSTEAD = {
    "kill": "Machine.signal",
    "mount": "Machine.bind, or mount(2) in a program of tests/programs",
    "umount": "umount2(2) in a program of tests/programs",
    "ps": "/proc",
    "pkill": "Machine.signal",
    "sysctl": "/proc/sys",
    "ip": "socket.if_nameindex",
    "git": "nothing: a checkout may be an archive",
    "gcc": "require_tool",
    "strace": "require_tool",
    "kexec": "require_tool",
}
"""Programs of packages that are not essential, and their replacements."""


def started(source: str) -> Iterator[tuple[int, str]]:
    """Yields the lines and names of programs that calls such as `run([…])` start."""
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call) or not node.args or not isinstance(node.args[0], ast.List):
            continue
        name = node.func.attr if isinstance(node.func, ast.Attribute) else ""
        argv = node.args[0].elts
        if name in ("run", "spawn", "Popen", "call", "check_call", "check_output") and argv:
            program = argv[0]
            if isinstance(program, ast.Constant) and program.value in INSTEAD:
                yield node.lineno, program.value


def test_no_test_takes_a_program_for_granted() -> None:
    found = []
    for file in sorted(TESTS.rglob("*.py")):
        source = file.read_text(encoding="utf-8")
        # A real kernel's machine is made of the host's programs, which kernel/build requires.
        if "kernel" in file.relative_to(TESTS).parts:
            continue
        for line, program in started(source):
            if f'require_tool("{program}"' not in source:
                found.append(f"{file}:{line}: {program} may be missing; instead: {INSTEAD[program]}")
    assert found == []
