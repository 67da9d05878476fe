"""The errors of luod, in one tree. The message says what was wrong, `hint` what to do. Tracebacks show both.

    LuodError
    ├── BadInput (ValueError)            an argument that can be refused before any system call
    ├── KernelRefused (OSError)          the kernel answered with an errno, in `errno`
    │   ├── NoLiveUpdate                 open: there is no /dev/liveupdate, or it is not for this user
    │   ├── LiveUpdateBusy               open: EBUSY, another process has it open
    │   ├── LiveUpdateBroken             open: EIO, this kernel could not take over what was carried
    │   ├── SessionExists                CREATE_SESSION: EEXIST
    │   ├── NoSuchSession                RETRIEVE_SESSION: ENOENT
    │   ├── SessionTaken                 RETRIEVE_SESSION: EINVAL, it is retrieved and open
    │   ├── TokenInUse                   PRESERVE_FD: EEXIST
    │   ├── FileAlreadyPreserved         PRESERVE_FD: EBUSY, the same file under any token of any session
    │   ├── FileNotPreservable           PRESERVE_FD: ENOENT (and EFBIG): this kind of file, or of this size
    │   ├── NoSuchToken                  RETRIEVE_FD: ENOENT
    │   ├── RetrieveFailed               RETRIEVE_FD: anything else; final, the file is lost (H1)
    │   ├── WrongDirection               an incoming verb on an outgoing session, or the other way round
    │   ├── FinishRefused                FINISH: EBUSY, a file was not retrieved or not restored
    │   ├── SessionFrozen                freeze, preserve: the session was frozen before
    │   ├── TargetRefused                retrieve(into=): the target does not fit; nothing is lost
    │   ├── NotAKernelImage              kexec_file_load: ENOEXEC
    │   ├── ImageDoesNotFit              kexec_file_load: EADDRNOTAVAIL, ENOMEM (H21)
    │   ├── NoImageLoaded                reboot(KEXEC): EINVAL, nothing is loaded
    │   ├── JumpRefused                  reboot(KEXEC): any other errno; nothing is lost
    │   │   └── VfioDeviceNotQuiet       reboot(KEXEC): EINVAL, a preserved device has its interrupts on, or sleeps
    │   └── VfioDeviceFrozen             any call on a VFIO device: EIO, a failed update froze it (H22)
    ├── Refused                          luod or the library declines, since state would be lost
    │   ├── NotEnoughMemory              retrieve (H1), preserve, memory: not enough memory
    │   ├── MemoryUnknown                retrieve, preserve: a limit on memory cannot be read
    │   ├── NotRetrieved                 finish: files would be dropped
    │   ├── ContentsUnknown              finish: the session has no manifest
    │   ├── UnpreserveUnavailable        unpreserve: this kernel has no such ioctl
    │   ├── PostedCallUnavailable        freeze, retrieve(into=): this kernel has no such ioctl
    │   ├── FilesMissing                 replace: files that would be lost, in `tokens`
    │   ├── ComesBackSealed              preserve: the memfd would come back immutable (F_SEAL_EXEC)
    │   ├── VfioDeviceNotBound           retrieve: no VFIO driver has the device
    │   ├── Torn                         luod's retrieve: its participant was not ready at the kexec (H13)
    │   ├── AlreadyResumed               luod's retrieve: its guest has run since (H12)
    │   ├── WrongPhase                   luod's create of NAME#GENERATION: its update does not freeze (any more)
    │   ├── NoManifest                   luod's manifest: luod has no duplicate of it
    │   ├── AlreadyStashed               stash: luod holds files of this name for this user
    │   ├── NotStashed                   unstash, drop_stash: luod holds no files of this name
    │   └── QemuRefusal                  an agent of a QEMU: the guest could not be carried
    ├── ManifestError                    the manifest of a session is damaged or of a newer format
    ├── ImageError                       a kernel image or initial RAM disk is damaged, or another kind of file
    │   └── ImageUnreadable              luod cannot read it here; it may be intact
    ├── PolicyError                      luod's policy file is wrong; `member` says where
    ├── DaemonError                      talking to luod
    │   ├── DaemonUnreachable            no process listens on the socket, or it was closed
    │   ├── ProtocolError                an answer is not Varlink, or not of the interface
    │   └── CallFailed                   luod answered with an error, `name`
    │       └── Busy                     not now, such as during an update; try again later
    ├── QemuError                        driving a QEMU (luod.agents)
    │   ├── QemuEnded                    it ended, could not start, or has no monitor
    │   │   └── GuestEnded               no QEMU runs the guest any more
    │   ├── QemuLate                     it did not do something in time, and may do it later
    │   ├── LibvirtFailed                libvirt refused a command of virsh, `command`, or cannot be reached
    │   ├── QmpFailed                    it refused a command of QMP, `command`
    │   └── QmpUnknown                   its answer to a command of QMP has an unknown form
    ├── FleetLockError                   `luoctl fleet-lock`: the lock server cannot be reached
    │   └── FleetLockRefused             the lock server refuses, or its answer is not of the protocol
    ├── RehearsalError                   `luod-fleet`: a rehearsal cannot be done
    │   ├── AnsibleFailed                Ansible cannot read the inventory or the playbook, or has printed no recap
    │   └── HostLost                     an emulated host ended, or does not answer
    └── MachineError                     driving a machine under test (luod.testing)
        ├── MachineUnavailable           this host cannot run such a machine
        ├── MachineEnded                 it ended, or could not boot
        ├── MachineJumped                it did a kexec while an answer was due
        └── ProgramFailed                a program in it failed, hung or did not answer

Every package imports it. It imports only the standard library.
"""

from __future__ import annotations

import os

from luod.static import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping


class LuodError(Exception):
    """Root of the tree. `hint` says what to do; "" if there is no hint."""

    hint: str = ""

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        if hint:
            self.hint = hint
        if self.hint:
            self.add_note(f"hint: {self.hint}")

    def __str__(self) -> str:
        return self.message


class BadInput(LuodError, ValueError):
    """An argument was refused before any system call. Nothing was changed."""


class KernelRefused(LuodError, OSError):
    """The kernel answered `call` with `errno`, which means `meaning` for that call.

    `call` is the name of the call as in the headers; "" where luod itself refused the call. The meaning of
    an errno depends on the call, so the subclasses are chosen by call.
    """

    def __init__(self, errno: int, call: str, meaning: str = "", *, hint: str = "") -> None:
        meaning = meaning or os.strerror(errno)
        LuodError.__init__(self, f"{call}: {meaning}" if call else meaning, hint=hint)
        self.errno = errno
        self.strerror = meaning
        self.call = call
        self.meaning = meaning


class NoLiveUpdate(KernelRefused):
    hint = "boot a kernel built with CONFIG_LIVEUPDATE with `liveupdate=on kho=on`, as root; or try `luoemu run`"


class LiveUpdateBusy(KernelRefused):
    hint = "only one process can have /dev/liveupdate open; on a host with luod, ask luod for a session"


class LiveUpdateBroken(KernelRefused):
    hint = (
        "this kernel lacks the handler of a preserved file, such as that of vfio-pci, so it can neither retrieve nor "
        "create a session; boot a kernel that has the handler, and start the guests from the beginning"
    )


class SessionExists(KernelRefused):
    hint = "close every fd of the session with this name, including duplicates, or use another name"


class NoSuchSession(KernelRefused):
    hint = "it was not preserved for this kernel, or it was retrieved and closed"


class SessionTaken(KernelRefused):
    hint = "another process has the session's fd open; that process must pass it on"


class TokenInUse(KernelRefused):
    hint = "tokens are unique in a session; use another"


class FileAlreadyPreserved(KernelRefused):
    hint = "a file can be preserved in one session at a time; close the other session first"


class FileNotPreservable(KernelRefused):
    hint = "only memfds (not hugetlb ones) can be preserved, and VFIO device files where the kernel has their handler"


class NoSuchToken(KernelRefused):
    hint = "no file was preserved under this token, or the session is finished"


class RetrieveFailed(KernelRefused):
    hint = "a failed RETRIEVE_FD is final: the kernel has freed the file and repeats the errno"


class WrongDirection(KernelRefused):
    hint = "a created session takes PRESERVE_FD, a retrieved one RETRIEVE_FD and FINISH"


class FinishRefused(KernelRefused):
    hint = "retrieve every file of the session, bind its devices, then finish again; nothing was changed"


class SessionFrozen(KernelRefused):
    hint = "a frozen session takes no files; close it and create it again"


class TargetRefused(KernelRefused):
    """RETRIEVE_FD into a file: nothing is lost, and the call can be repeated."""

    hint = "give an empty file of a tmpfs, open for writing, for a file of a tmpfs, and none for a memfd"


class NotAKernelImage(KernelRefused):
    hint = "give a bzImage (or on arm64 an Image) built for this machine"


class ImageDoesNotFit(KernelRefused):
    hint = "image and initrd must fit the scratch memory of kexec handover; see `kho_scratch=`"


class NoImageLoaded(KernelRefused):
    hint = "run `luoctl load` first"


class JumpRefused(KernelRefused):
    hint = "nothing is lost: the image stays loaded and the sessions stay preserved"


class VfioDeviceNotQuiet(JumpRefused):
    hint = (
        "turn the interrupts of every preserved device off (luod.vfio.quiesce) and wake it, then try again; devices "
        "preserved before that one were reset, or return EIO until their driver is bound again"
    )


class VfioDeviceFrozen(KernelRefused):
    hint = "close its files and its session, bind its driver again (luod.vfio.revive), then open it again"


class Refused(LuodError):
    """luod declines a call that would lose state. Nothing was changed."""


class NotEnoughMemory(Refused):
    """`needed` and `available` are in bytes; `limit` is the limiting one, such as a cgroup's path."""

    hint = "raise the limit first: a RETRIEVE_FD that runs out of memory frees the file for good"

    def __init__(self, message: str, *, needed: int, available: int, limit: str, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.needed = needed
        self.available = available
        self.limit = limit


class MemoryUnknown(Refused):
    """`needed` is in bytes; `why` names the limit that cannot be read. Nothing was changed."""

    hint = (
        "mount /proc and the cgroup file system where this process can read them, or put luod's socket there, or pass "
        "check_memory=False: then a RETRIEVE_FD that runs out of memory frees the file for good"
    )

    def __init__(self, message: str, *, needed: int, why: str, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.needed = needed
        self.why = why


class NotRetrieved(Refused):
    """`tokens` are those that FINISH would drop."""

    hint = "retrieve them first, or call finish(discard=True)"

    def __init__(self, message: str, *, tokens: tuple[int, ...], hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.tokens = tokens


class ContentsUnknown(Refused):
    hint = "name its tokens with finish(tokens=…), or call finish(discard=True)"


class UnpreserveUnavailable(Refused):
    hint = "no released kernel has UNPRESERVE_FD; replace() creates the session again without the file"


class PostedCallUnavailable(Refused):
    hint = "no released kernel has it; luoemu run --profile next does"


class FilesMissing(Refused):
    """`tokens` are preserved and were not given to replace()."""

    hint = "pass every file to keep, and name the tokens to drop"

    def __init__(self, message: str, *, tokens: tuple[int, ...], hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.tokens = tokens


class ComesBackSealed(Refused):
    hint = "create it with luod.liveupdate.memory() or MFD_EXEC; pass allow_sealed=True if it is only read later"


class Torn(Refused):
    hint = "discard it, Client.discard(), and start the guest from the beginning"


class AlreadyResumed(Refused):
    hint = "discard it, Client.discard(), and start the guest from the beginning"


class WrongPhase(Refused):
    hint = "the update has ended: resume the guest; the event cancelled follows"


class NoManifest(Refused):
    hint = "the session was created without a manifest; retrieve it to see its files"


class AlreadyStashed(Refused):
    hint = "unstash them, drop the stash, or use another name"


class NotStashed(Refused):
    hint = "files are kept for the user that stashed them, until a kexec"


class QemuRefusal(Refused):
    """A guest could not be carried: its command line, its QEMU or its running devices. Nothing was started."""


class VfioDeviceNotBound(Refused):
    """`address` is the device's, as 0000:01:00.0."""

    hint = "bind it to vfio-pci first (luod.vfio.bind_driver): a RETRIEVE_FD without its driver is final"

    def __init__(self, message: str, *, address: str, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.address = address


class ManifestError(LuodError):
    hint = "another program or a newer luod wrote it; the files can still be retrieved by token"


class ImageError(LuodError):
    hint = "give an uncorrupted bzImage"


class ImageUnreadable(ImageError):
    hint = "use a packing that luod can read: gzip, xz, lz4 or zstd"


class PolicyError(LuodError):
    """`path` is the file, `member` the wrong part: as `rules[1].uid`, or a line and column; "" for the whole file.

    `line` is that of the member, if it was looked for.
    """

    hint = "see docs/policy.md"

    def __init__(self, path: str, member: str, message: str, *, hint: str = "", line: int | None = None) -> None:
        where = (path, "" if line is None else f"line {line}", member)
        super().__init__(": ".join(part for part in where if part) + f": {message}", hint=hint)
        self.path = path
        self.member = member


class DaemonError(LuodError):
    """The communication with luod failed."""


class DaemonUnreachable(DaemonError):
    hint = "start `luod`, under systemd by `systemctl start luod`, or give the path of its socket"


class ProtocolError(DaemonError):
    hint = "check that this is luod's socket"


class CallFailed(DaemonError):
    """luod answered with a Varlink error. `name` is its full name, `parameters` are its parameters."""

    def __init__(self, name: str, message: str, parameters: Mapping[str, Any] | None = None, *, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.name = name
        self.parameters = dict(parameters or {})


class Busy(CallFailed):
    """luod cannot do this now: an update is under way, /dev/liveupdate is open elsewhere, or there are too many
    connections.

    Nothing was changed.
    """

    hint = "try again later"


class QemuError(LuodError):
    """Driving a QEMU failed."""


class QemuEnded(QemuError):
    """QEMU ended, could not start, or has no monitor."""

    hint = "see what QEMU printed"


class GuestEnded(QemuEnded):
    """No QEMU runs the guest any more: its QEMU ended, or its memory was changed after its state was written."""

    hint = "start the guest from the beginning; see what QEMU printed"


class QemuLate(QemuError):
    """QEMU did not do something in time. It may do it later."""

    hint = "see whether QEMU is stopped, or waits for a disk or a network file system"


class LibvirtFailed(QemuError):
    """libvirt refused `command`, a command of virsh, or cannot be reached."""

    hint = "see the log of libvirtd, and /var/log/libvirt/qemu/DOMAIN.log"

    def __init__(self, command: str, message: str, *, hint: str = "") -> None:
        super().__init__(f"virsh {command}: {message}", hint=hint)
        self.command = command


class QmpFailed(QemuError):
    """QEMU refused `command`, a command of QMP."""

    def __init__(self, command: str, message: str, *, hint: str = "") -> None:
        super().__init__(f"{command}: {message}", hint=hint)
        self.command = command


class QmpUnknown(QemuError):
    """QEMU's answer to a command of QMP has not the form that QEMU 7.2 to 11.1 give it."""

    hint = "this QEMU may be newer than this luod: report it with the answer"


class FleetLockError(LuodError):
    """The lock server of `luoctl fleet-lock` cannot be reached."""

    hint = "check the URL, the network and the lock server"


class FleetLockRefused(FleetLockError):
    """The lock server answered with another status than 200. The message has its reason."""

    hint = "wait until another host returns its slot; `--wait SECONDS` repeats the request"


class RehearsalError(LuodError):
    """A rehearsal of `luod-fleet` cannot be done."""


class AnsibleFailed(RehearsalError):
    """Ansible could not read the inventory or the playbook, or its output has no recap."""


class HostLost(RehearsalError):
    """An emulated host does not run, or does not answer."""

    hint = "run the rehearsal again; the message has what the host wrote last"


class MachineError(LuodError):
    """Driving a machine under test failed. The message has the boot, the program and its stderr."""


class MachineUnavailable(MachineError):
    """This host cannot run such a machine; the message says what is missing."""


class MachineEnded(MachineError):
    """The machine ended, or could not boot."""


class MachineJumped(MachineError):
    """The machine did a kexec while an answer was due. `Machine.expect_jump` is for intended ones."""


class ProgramFailed(MachineError):
    """A program in the machine failed, hung, or did not answer."""
