"""Every error that luod answers with is made with the members its interface gives it, which mypy cannot tell.

One that is not cannot be sent: the caller would see a call that broke off.
"""

from __future__ import annotations

import ast
import importlib
import pkgutil
from collections.abc import Iterator
from pathlib import Path

from asyncvarlink import TypedVarlinkErrorReply

import luod.daemon
import luod.ipc


def made() -> Iterator[tuple[str, type[TypedVarlinkErrorReply], set[str | None]]]:
    """Each place in the source where one is made, which one, and the members it is given."""
    for package in (luod.daemon, luod.ipc):
        for found in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
            module = importlib.import_module(found.name)
            assert module.__file__ is not None
            for call in ast.walk(ast.parse(Path(module.__file__).read_bytes())):
                if isinstance(call, ast.Call) and isinstance(call.func, ast.Name | ast.Attribute):
                    *path, name = ast.unparse(call.func).split(".")
                    owner = vars(module).get(path[0]) if len(path) == 1 else module
                    kind = getattr(owner, name, None)
                    if isinstance(kind, type) and issubclass(kind, TypedVarlinkErrorReply):
                        yield f"{found.name}:{call.lineno}", kind, {keyword.arg for keyword in call.keywords}


def test_every_error_is_made_with_the_members_of_its_interface() -> None:
    places = list(made())
    assert len(places) > 50
    wrong = [
        f"{place}: {kind.name} is given {members}"
        for place, kind, members in places
        if members != set(vars(kind)["Parameters"].__annotations__)
    ]
    assert not wrong
