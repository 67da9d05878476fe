"""A program that makes the calls of luod's library a test asks for: `tests.programs.questions`, with those added.

    {"do": "library", "call": "preserve", "session": "s", "file": "m", "token": 1}
        ->  {"ok": {"value": null}}   or   {"ok": {"error": "TokenInUse", "errno": "EEXIST", "message": …, "hint": …}}

Sessions and the device are named by slots of their own; files by the slots of `questions`.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sys
from typing import Any

from luod import kexec
from luod.decode import encode
from luod.errors import KernelRefused, LuodError
from luod.linux import Fd
from luod.liveupdate import IncomingSession, LiveUpdate, OutgoingSession, memory, unpreserve_available
from tests.programs.denial import deny
from tests.programs.questions import Process, Slot


class Library(Process):
    """What `questions` can, and the library's objects by slot."""

    def __init__(self) -> None:
        super().__init__()
        self.outgoing: dict[str, Any] = {}
        self.incoming: dict[str, Any] = {}

    def result(self, value: Any) -> Any:
        """Returns the result of a verb of a session; overridden for coroutines."""
        return value

    def do_library(self, call: str, **arguments: Any) -> dict[str, Any]:
        try:
            return {"value": getattr(self, f"call_{call}")(**arguments)}
        except LuodError as error:
            code = errno.errorcode.get(error.errno or 0) if isinstance(error, KernelRefused) else None
            details = {"tokens": list(getattr(error, "tokens", ())), "needed": getattr(error, "needed", None)}
            return {"error": type(error).__name__, "errno": code, "message": str(error), "hint": error.hint, **details}

    def do_deny(self, call: str, code: str, argument: int = 0, value: int | None = None) -> None:
        deny(call, getattr(errno, code), argument=argument, value=value)

    # -- the device ------------------------------------------------------------------------------------------------

    def call_open(self, patience: float = 0.0) -> None:
        LiveUpdate(patience=patience).close()

    def call_open_path(self, path: str) -> None:
        LiveUpdate(path).close()

    def call_create(self, name: str, slot: str, manifest: bool = True) -> None:
        with LiveUpdate() as device:
            session = device.create_session(name)
        self.outgoing[slot] = session if manifest else OutgoingSession(session.detach(), manifest=False)

    def call_retrieve_session(self, name: str, slot: str) -> None:
        with LiveUpdate() as device:
            self.incoming[slot] = device.retrieve_session(name)

    # -- sessions --------------------------------------------------------------------------------------------------

    def call_wrap_outgoing(self, fd: Slot, slot: str, manifest: bool = True) -> None:
        """Makes an outgoing session object of a duplicate of any fd."""
        self.outgoing[slot] = OutgoingSession(Fd(os.dup(self.fd(fd))), manifest=manifest)

    def call_wrap_incoming(self, fd: Slot, slot: str) -> None:
        self.incoming[slot] = IncomingSession(Fd(os.dup(self.fd(fd))))

    def call_fd(self, session: str, slot: str) -> None:
        """Puts a duplicate of the session's fd into a slot, for the raw calls."""
        self.put(slot, self.session(session).duplicate().detach())

    def call_name(self, session: str) -> str:
        return str(self.session(session).name)

    def call_close(self, session: str) -> None:
        self.session(session).close()

    def call_preserve(
        self, session: str, file: Slot, token: int | None = None, name: str | None = None, **how: Any
    ) -> int:
        number: int = self.result(self.outgoing[session].preserve(self.fd(file), token, name=name, **how))
        return number

    def call_preserve_many(self, session: str, count: int, size: int = 4096) -> None:
        for token in range(count):
            with memory(size) as file:
                os.pwrite(file.fileno(), b"%d" % token, 0)
                self.result(self.outgoing[session].preserve(file, token, name=f"file {token}"))

    def call_unpreserve(self, session: str, token: int) -> None:
        self.result(self.outgoing[session].unpreserve(token))

    def call_freeze(self, session: str) -> None:
        self.result(self.outgoing[session].freeze())

    def call_retrieve_into(self, session: str, file: int | str, slot: str, target: Slot | None = None) -> None:
        into = None if target is None else self.fd(target)
        self.put(slot, self.incoming[session].retrieve(file, into=into).detach())

    def call_unpreserve_available(self) -> bool:
        return unpreserve_available()

    def call_tokens(self, session: str) -> list[int]:
        return list(self.outgoing[session].tokens)

    def call_contents(self, session: str) -> list[dict[str, Any]] | None:
        contents = self.session(session).contents
        return None if contents is None else [encode(entry) for entry in contents]

    def call_retrieve(self, session: str, file: int | str, slot: str, **how: Any) -> None:
        self.put(slot, self.result(self.incoming[session].retrieve(file, **how)).detach())

    def call_unretrieved(self, session: str, tokens: list[int] | None = None) -> list[int]:
        return list(self.result(self.incoming[session].unretrieved(tokens)))

    def call_finish(self, session: str, **how: Any) -> None:
        self.result(self.incoming[session].finish(**how))

    def call_finished(self, session: str) -> bool:
        return bool(self.incoming[session].finished)

    def call_holds(self, session: str, **which: int) -> bool:
        return bool(self.result(self.incoming[session].holds(**which)))

    def session(self, slot: str) -> Any:
        with contextlib.suppress(KeyError):
            return self.outgoing[slot]
        return self.incoming[slot]

    # -- memory and the next kernel --------------------------------------------------------------------------------

    def call_memory(self, slot: str, size: int, **how: Any) -> None:
        self.put(slot, memory(size, **how).detach())

    def call_load(self, kernel: str, command_line: str, initrd: str | None = None) -> None:
        with contextlib.ExitStack() as files:
            kernel_file = files.enter_context(open(kernel, "rb"))
            initrd_file = None if initrd is None else files.enter_context(open(initrd, "rb"))
            kexec.load(kernel_file, initrd_file, command_line)

    def call_load_fd(self, kernel: Slot) -> None:
        kexec.load(self.fd(kernel), None, "")

    def call_unload(self) -> None:
        kexec.unload()

    def call_loaded(self) -> bool:
        return kexec.loaded()

    def call_jump(self) -> None:
        kexec.jump()


if __name__ == "__main__":
    Library().serve(sys.stdin, sys.stdout)
