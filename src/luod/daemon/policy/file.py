"""Reads the policy file, and says what is wrong with it: file, member or position, and what was meant.

A pure judgement of a text; what is in force is `luod.daemon.policy.current`. `luod.daemon.policy.check` names all
mistakes.
"""

from __future__ import annotations

import re

from luod.daemon import trust
from luod.daemon.policy.rules import Settings, Terms
from luod.daemon.store.schema import MOST_SESSIONS
from luod.decode import Decoder, Misfit
from luod.errors import PolicyError
from luod.static import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Fault = tuple[str, str, str]
    """A mistake in a policy: member, message and hint."""

DEFAULT_PATH: Final = "/etc/luod/luod.toml"
_MOST_BYTES: Final = 1 << 20
_MOST_SECONDS: Final = 366 * 86400.0
_NAME: Final = r"(?:\{user\}|\{unit\}|[A-Za-z0-9._@/#*?-])+"
_WORDS: Final[dict[type, str]] = {
    int: "a number",
    float: "a number of seconds",
    str: "text",
    bool: "true or false",
    list: "a list",
    dict: "a table",
}


def read(path: str) -> bytes:
    """Returns the file's bytes.

    Raises FileNotFoundError. Raises PolicyError: it cannot be read, or other users can write to it.
    """
    try:
        with open(path, "rb") as file:
            fault = trust.fault(path)
            data = file.read(_MOST_BYTES + 1)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise PolicyError(path, "", f"cannot be read: {error.strerror}") from error
    if fault is not None:
        where = "" if fault.path == path else f"{fault.path} "
        raise PolicyError(path, "", f"is not accepted: {where or 'it '}{fault.what}", hint=fault.remedy)
    if len(data) > _MOST_BYTES:
        raise PolicyError(path, "", "is larger than 1 MiB")
    return data


def parse(text: bytes, path: str) -> Settings:
    """Returns the settings of a file's text. Raises PolicyError for a mistake."""
    return settings(table(text, path), path)


def table(text: bytes, path: str) -> dict[str, Any]:
    """Returns what the text says as TOML. Raises PolicyError for a mistake in that."""
    import tomllib  # takes longer than all else here, and luod starts while guests are paused

    try:
        return tomllib.loads(text.decode())
    except UnicodeDecodeError as error:
        good = text[: error.start].decode()
        where = f"line {good.count(chr(10)) + 1}, column {len(good) - good.rfind(chr(10))}"
        raise PolicyError(path, where, "is not UTF-8", hint="save the file as UTF-8") from error
    except tomllib.TOMLDecodeError as error:
        raise PolicyError(path, "", str(error), hint=_SYNTAX) from error
    except RecursionError as error:
        raise PolicyError(path, "", "is nested too deeply") from error


def settings(table: object, path: str) -> Settings:
    """Returns the settings in the table. Raises PolicyError for the first mistake."""
    found, faults = judged(table)
    for member, message, hint in faults:
        raise PolicyError(path, member, message, hint=hint)
    return found


def judged(table: object) -> tuple[Settings, list[Fault]]:
    """Returns the settings, and all mistakes. In `table` each value of a wrong type is replaced by a right one."""
    faults: list[Fault] = []
    while True:
        try:
            found = _DECODER(Settings, table)
            return found, [*faults, *_faults(found)]
        except Misfit as misfit:
            faults.append((misfit.path, *_explained(misfit)))
            if not misfit.parts:
                return Settings(), faults
            _replace(table, misfit)


def _replace(table: Any, misfit: Misfit) -> None:
    """Removes a member that does not exist, and replaces another by one that has no mistake."""
    for part in misfit.parts[:-1]:
        table = table[_key(table, part)]
    last = misfit.parts[-1]
    if misfit.wanted is None:
        del table[last]
    elif misfit.known:
        table[last] = misfit.known[0]
    elif isinstance(table, list) and misfit.wanted is dict:
        table[_key(table, last)] = {"uid": 0}  # a rule, which needs a condition
    else:
        table[_key(table, last)] = _RIGHT[misfit.wanted]()


def _key(table: dict[str, Any] | list[Any], part: str) -> Any:
    """Returns the key, or the index, for a part of a misfit's path."""
    return int(part[1:-1]) if isinstance(table, list) else part


_RIGHT: Final[dict[type, Callable[[], object]]] = {
    int: lambda: 1,
    float: lambda: 1.0,
    bool: lambda: False,
    str: lambda: "/*",  # may be a command, a pattern of names, of units and of cgroups
    list: list,
    dict: dict,
}


_SYNTAX: Final = "the file is TOML: `member = value` a line, text in quotes, rules under [[rules]]"
_DECODER: Final = Decoder(strict=True, spelling=lambda name: name.replace("_", "-"))


def _explained(misfit: Misfit) -> tuple[str, str]:
    """Returns the message and the hint."""
    name = misfit.path.rpartition(".")[2]
    if misfit.wanted is None:
        return "is unknown", _meant(name, misfit.known)
    if misfit.known:
        return f"cannot be {misfit.given!r}", _meant(str(misfit.given), misfit.known)
    if misfit.wanted is float and type(misfit.given) is int:
        return "is too large", ""
    hint = 'write [[rules]] before each rule, and lists as ["a", "b"]' if misfit.wanted is list else ""
    if name in ("uid", "gid"):
        hint = "`id NAME` prints the uid and gids of a user"
    return f"is {_word(misfit.given)}, not {_WORDS[misfit.wanted]}", hint


def _word(value: object) -> str:
    return _WORDS.get(type(value), "a time")


def _meant(word: str, known: tuple[str, ...]) -> str:
    from difflib import get_close_matches

    close = get_close_matches(word.lower().replace("_", "-"), known, n=1)
    return f"did you mean {close[0]!r}?" if close else f"it can be {', '.join(known)}"


def _faults(settings: Settings) -> Iterator[Fault]:
    """Yields the mistakes in values of the right types."""
    if settings.restore_deadline is not None and not 0 < settings.restore_deadline <= _MOST_SECONDS:
        yield "restore-deadline", "is not a valid time", "a positive number of seconds; leave it out to wait forever"
    if not 0 < settings.reaper_timeout <= _MOST_SECONDS:
        yield "reaper-timeout", "is not a valid time", "a positive number of seconds"
    if not 0 < settings.hooks.timeout <= _MOST_SECONDS:
        yield "hooks.timeout", "is not a valid time", "a positive number of seconds"
    if not 0 < settings.all_connections <= 65536:
        yield "all-connections", "is not a valid number of connections", "1 to 65536"
    yield from _faults_of_command("reaper", settings.reaper)
    yield from _faults_of_command("hooks.before-update", settings.hooks.before_update)
    yield from _faults_of_command("hooks.after-update", settings.hooks.after_update)
    yield from _faults_of("default", settings.default)
    for number, rule in enumerate(settings.rules):
        member = f"rules[{number}]"
        if all(condition is None for condition in rule.conditions):
            yield member, "has no condition", "add uid, gid, unit or cgroup; for all other users, use [default]"
        for name in ("uid", "gid"):
            if not 0 <= (getattr(rule, name) or 0) < 2**32 - 1:
                yield f"{member}.{name}", f"is not a valid {name}", ""
        if rule.unit is not None and not rule.unit.endswith((".service", ".scope", "*")):
            yield f"{member}.unit", "is not a unit with processes", f"did you mean {rule.unit + '.service'!r}?"
        if rule.cgroup is not None and not (rule.cgroup.startswith("/") and len(rule.cgroup) > 1):
            yield f"{member}.cgroup", "does not begin at the root", "as in /proc/PID/cgroup: /machine.slice"
        yield from _faults_of(member, rule)


def _faults_of_command(member: str, command: tuple[str, ...]) -> Iterator[Fault]:
    if command and not command[0].startswith("/"):
        yield f"{member}[0]", "is not an absolute path", "luod does not search $PATH"
    if any("\0" in word for word in command):
        yield member, "has a NUL", ""


def _faults_of(member: str, terms: Terms) -> Iterator[Fault]:
    for number, name in enumerate(terms.names or ()):
        if not re.fullmatch(_NAME, name):
            hint = "names have A-Z a-z 0-9 . _ @ / # -, patterns also * ? {user} {unit}"
            yield f"{member}.names[{number}]", f"{name!r} is not a valid pattern", hint
    if not 0 <= (terms.sessions or 0) <= MOST_SESSIONS:
        yield f"{member}.sessions", "is not a valid number of sessions", f"0 to {MOST_SESSIONS}, the maximum"
    if terms.connections is not None and not 0 < terms.connections <= 65536:
        yield f"{member}.connections", "is not a valid number of connections", "1 to 65536"
