"""Interfaces as classes: their methods, with the parameters and replies that the annotations describe.

luod's are in `luod.ipc.interfaces`. A method is described when it is first called. The annotations are read at run
time, so a module with methods does not use `from __future__ import annotations`. A file of a client is a `Received`,
which the server closes after the call; a file of luod in a reply is an `Fd`, which it closes when the reply is sent.
"""

from __future__ import annotations

import json
import os
import sys

from luod.decode import Decoder, Misfit, encode
from luod.ipc.errors import ExpectedMore, InterfaceNotFound, InvalidParameter, MethodNotFound
from luod.ipc.server.received import Received
from luod.linux import Fd
from luod.static import TYPE_CHECKING, Any, ClassVar, Final, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from luod.ipc.server.calls import Call

    F = TypeVar("F", bound=Callable[..., Any])

_ASYNC_GENERATOR: Final = 0x200
"""CO_ASYNC_GENERATOR of `inspect`, which is not imported for it."""


def method(reply: str = "", *, completed: bool = False) -> Callable[[F], F]:
    """Makes a function a method of an interface.

    A function returns the parameter `reply` of its reply, or a frozen object with all parameters, or None. It can be a
    coroutine. An asynchronous generator yields replies; the caller has to expect more than one. Each is followed by
    another one, except `Last`. `completed`: the call is completed even if the client hangs up, since a partial change
    would leave the kernel, the registry and the supervisor with different sessions.
    """

    def made(function: F) -> F:
        vars(function).update(reply=reply, completed=completed)
        return function

    return made


class Last:
    """The last reply of a generator."""

    def __init__(self, reply: object) -> None:
        self.reply: Final = reply


class Method:
    """A method as the annotations of its function describe it."""

    def __init__(self, function: Any) -> None:
        self.function: Final = function
        self.parameters: Final[dict[str, Any]] = dict(function.__annotations__)
        self.returned: Final[Any] = self.parameters.pop("return")
        self.reply: Final[str] = function.reply
        self.completed: Final[bool] = function.completed
        self.more: Final = bool(function.__code__.co_flags & _ASYNC_GENERATOR)
        self._read: Final = _DECODER.parameters(self.parameters, {})

    def arguments(self, parameters: dict[str, Any], files: Sequence[Received]) -> dict[str, Any]:
        """Returns the parameters of a call, whose message came with `files`. Raises InvalidParameter."""
        global _files
        _files = files
        try:
            return self._read(parameters)
        except Misfit as misfit:
            raise InvalidParameter(parameter=misfit.parts[0] if misfit.parts else "") from None
        finally:
            _files = ()

    def answer(self, result: Any) -> Mapping[str, Any]:
        """Returns the parameters of the reply."""
        if type(result) is Last:
            result = result.reply
        if self.reply:
            return {self.reply: result}
        return {} if result is None else encode(result)


class Interface:
    """A Varlink interface for one peer. Its text, for introspection, is in a file beside its module."""

    name: ClassVar[str]
    _methods: ClassVar[dict[str, Method]]

    def __init_subclass__(cls, *, name: str) -> None:
        cls.name = name
        cls._methods = {}

    @classmethod
    def method(cls, name: str) -> Method | None:
        """Returns one of its methods, or None."""
        found = cls._methods.get(name)
        if found is None and hasattr(function := cls.__dict__.get(name), "reply"):
            found = cls._methods[name] = Method(function)
        return found

    @classmethod
    def description(cls) -> str:
        directory = os.path.dirname(str(sys.modules[cls.__module__].__file__))
        with open(f"{directory}/{cls.name}.varlink", encoding="utf-8") as file:
            return file.read()


def find(interfaces: Mapping[str, Interface], call: Call) -> tuple[Interface, Method]:
    """Returns the method of a call. Raises InterfaceNotFound, MethodNotFound, ExpectedMore."""
    name, _, short = call.method.rpartition(".")
    interface = interfaces.get(name)
    if interface is None:
        raise InterfaceNotFound(interface=name)
    found = interface.method(short)
    if found is None:
        raise MethodNotFound(method=call.method)
    if found.more and not call.more:
        raise ExpectedMore()
    return interface, found


def accepted(passed: Received, parameter: str) -> Fd:
    """Returns a duplicate of a client's file, which outlives the call. Raises InvalidParameter: luod does not accept
    files of its kind.
    """
    copy = passed.duplicate()
    if copy is None:
        raise InvalidParameter(parameter=parameter)
    return copy


_files: Sequence[Received] = ()
"""The files of the message that is decoded at present."""


def _file(given: object) -> Received:
    """Returns the file with this index among those of the message."""
    if type(given) is not int or not 0 <= given < len(_files):
        raise Misfit(int, given)
    return _files[given]


_DECODER: Final = Decoder(strict=True, others={Received: _file})


class Reply:
    """A reply as a message. Owns its files."""

    def __init__(self, parameters: Mapping[str, Any], *, error: str = "", continues: bool = False) -> None:
        self._files: list[Fd | Received] = []
        # Always with parameters, since some clients require them.
        message: dict[str, Any] = {"parameters": parameters}
        if error:
            message["error"] = error
        if continues:
            message["continues"] = True
        try:
            text = json.dumps(message, default=self._encode, separators=(",", ":"))
        except BaseException:
            self.close()
            raise
        self.data: Final = text.encode() + b"\0"

    def _encode(self, value: object) -> object:
        """Returns the index of a file, or the members of an object."""
        if isinstance(value, Fd | Received):
            self._files.append(value)
            return len(self._files) - 1
        return encode(value)

    @property
    def fds(self) -> list[int]:
        return [file.fileno() for file in self._files]

    def close(self) -> None:
        for file in self._files:
            file.close()
