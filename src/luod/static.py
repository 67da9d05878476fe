"""The words of typing, for the type checker: at run time typing is not imported, and only `Literal` has a meaning.

Importing typing takes 10 ms of processor time, in which a guest is paused (docs/performance.md). Modules on the start
of luod and of a VMM import these words from here, and postpone their annotations (PEP 563).
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import IO as IO
    from typing import Any as Any
    from typing import ClassVar as ClassVar
    from typing import Final as Final
    from typing import Generic as Generic
    from typing import Literal as Literal
    from typing import NoReturn as NoReturn
    from typing import Protocol as Protocol
    from typing import Self as Self
    from typing import TextIO as TextIO
    from typing import TypeGuard as TypeGuard
    from typing import TypeVar as TypeVar


class Words:
    """`Literal` at run time, for words: `Literal["a", "b"]` is a class with these `words`. A Literal among them stands
    for its words. `luod.decode` reads them.
    """

    words: ClassVar[tuple[str, ...]] = ()

    def __class_getitem__(cls, given: Any) -> type[Words]:
        words: list[str] = []
        for each in given if type(given) is tuple else (given,):
            words += (each,) if type(each) is str else each.words
        return type("Literal", (Words,), {"words": tuple(dict.fromkeys(words))})


if not TYPE_CHECKING:
    Literal = Words

    class Generic:
        def __class_getitem__(cls, parameters):
            return cls

    class Protocol(Generic):
        pass

    def TypeVar(name, **_bounds):
        return name

    IO = Any = ClassVar = Final = NoReturn = Self = TextIO = TypeGuard = None
