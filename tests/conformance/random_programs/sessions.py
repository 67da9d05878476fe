"""The part of the author that calls /dev/liveupdate and sessions."""

from __future__ import annotations

import os

from tests.conformance.random_programs import garble
from tests.conformance.random_programs.beliefs import Device, Memory, Other, Process, Session, Socket
from tests.conformance.random_programs.writer import Writer


class SessionCalls(Writer):
    """Opens, creates, retrieves, preserves, finishes."""

    def open_device(self, process: Process) -> None:
        held = [(each, slot) for each in self.started for slot in each.slots(Device)]
        if held and not self.rarely(4):
            # It can be open once only: make room.
            if self.rarely(2):
                for each, slot in held:
                    self.close_slot(each, slot)
            return
        flags = self.chance.choice((os.O_RDWR, os.O_RDWR, os.O_RDWR, os.O_RDONLY, os.O_WRONLY, os.O_PATH))
        slot = self.slot("device")
        self.ask(process, "open", path="/dev/liveupdate", flags=flags, slot=slot)
        if process.root and not process.full and not any(isinstance(file, Device) for file in self.everywhere()):
            process.files[slot] = Device() if flags != os.O_PATH else Other()

    def device(self, process: Process) -> str | None:
        if not process.slots(Device) and not self.rarely(5):
            self.open_device(process)
        return self.any(process, Device)

    def create(self, process: Process) -> None:
        device = self.device(process)
        if device is None:
            return
        name, slot = garble.name(self.chance), self.slot("s")
        how, again = self.ask_garbled(process, "create", 72, device=device, name=name, slot=slot)
        known = name.partition("\0")[0]
        open_ = {file.name for file in self.everywhere() if isinstance(file, Session) and file.outgoing}
        works = device in process.files and not process.full and (again or garble.succeeds(how, 72))
        if works and 0 < len(known) < 64 and known not in open_:
            process.files[slot] = Session(known, True)

    def retrieve_session(self, process: Process) -> None:
        device = self.device(process)
        if device is None:
            return
        known = list(self.arrived)
        if not known and not self.rarely(4):
            return
        if known and not self.rarely(8):
            name = self.chance.choice(known)
        else:
            name = self.chance.choice(self.lost) if self.lost and self.rarely(2) else garble.name(self.chance)
        slot, field = self.slot("s"), name + ("\0garbage" if len(name) < 50 and self.rarely(10) else "")
        how, again = self.ask_garbled(process, "retrieve", 72, device=device, name=field, slot=slot)
        if device in process.files and name in self.arrived and not process.full:
            if how.get("memory") == "read-only":
                del self.arrived[name]
            elif again or garble.succeeds(how, 72):
                process.files[slot] = self.arrived.pop(name)

    def session(self, process: Process, *, outgoing: bool) -> str | None:
        right, wrong = process.sessions(outgoing=outgoing), process.sessions(outgoing=not outgoing)
        slots = wrong if wrong and self.rarely(25) else right
        return self.chance.choice(slots) if slots else None

    def preserve(self, process: Process) -> None:
        session = self.session(process, outgoing=True)
        if session is None:
            return
        fresh = process.unpreserved()
        fd: str | int | None
        if fresh and not self.rarely(4):
            fd = self.chance.choice(fresh)
        elif self.rarely(8):
            fd = self.chance.choice((-1, 0, 1, 999, 0x7FFFFFFF))
        else:
            fd = self.any(process, *((Memory,) if self.rarely(2) else (Memory, Other, Session, Device, Socket)))
        if fd is None:
            return
        belief, memory = process.files[session], process.files.get(fd) if isinstance(fd, str) else None
        assert isinstance(belief, Session)
        used = list(belief.tokens)
        token = self.chance.choice(used) if used and self.rarely(10) else garble.token(self.chance)
        how, again = self.ask_garbled(process, "preserve", 16, session=session, fd=fd, token=token)
        if isinstance(memory, Memory):
            works = again or garble.takes_place(how, 16)
            if works and belief.outgoing and not memory.attempted and not memory.enormous:
                belief.tokens.setdefault(token, memory)
            memory.attempted = True

    def retrieve_fd(self, process: Process) -> None:
        session = self.session(process, outgoing=False)
        if session is None:
            return
        belief = process.files[session]
        assert isinstance(belief, Session)
        known = list(belief.tokens)
        if not known and not self.rarely(4):
            return
        token = self.chance.choice(known) if known and not self.rarely(10) else garble.token(self.chance)
        slot = self.slot("r")
        how, again = self.ask_garbled(process, "retrieve_fd", 16, session=session, token=token, slot=slot)
        if (again or garble.succeeds(how, 16)) and token in belief.tokens and not belief.outgoing and not process.full:
            process.files[slot] = belief.tokens[token]
            self.look_at(process, slot)

    def look_at(self, process: Process, slot: str) -> None:
        self.ask(process, "about", fd=slot)
        file = process.files.get(slot)
        if isinstance(file, Memory) and not file.enormous:
            self.ask(process, "digest", fd=slot)

    def finish(self, process: Process) -> None:
        session = self.session(process, outgoing=False)
        if session is None:
            return
        how = garble.argument(self.chance, 8)
        reserved = {"reserved": self.chance.choice((1, 1 << 31))} if self.rarely(12) else {}
        self.ask(process, "finish", session=session, **reserved, **how)
        belief = process.files[session]
        assert isinstance(belief, Session)
        if belief.tokens and not self.rarely(3):  # did it take effect?
            token = self.chance.choice(list(belief.tokens))
            self.ask(process, "retrieve_fd", session=session, token=token, slot=self.slot("r"))
        if not belief.outgoing and garble.takes_place(how, 8) and not reserved:
            belief.tokens = {}

    def get_name(self, process: Process) -> None:
        session = self.any(process, Session)
        if session is not None:
            reserved = {"reserved": 1} if self.rarely(12) else {}
            fill = {"fill": "\xee"} if self.rarely(2) else {}
            self.ask(process, "get_name", session=session, **reserved, **fill, **garble.argument(self.chance, 72))

    def any_ioctl(self, process: Process) -> None:
        fd = self.any(process, Device, Session)
        if fd is not None:
            self.ask(process, "ioctl", fd=fd, **garble.any_ioctl(self.chance))
