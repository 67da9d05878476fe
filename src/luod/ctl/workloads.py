"""Runs a verb on each of several workloads, and prints the reports."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from luod.ctl.exits import Exit, kind
from luod.ctl.output import Output, escaped
from luod.errors import LuodError
from luod.session_name import SessionName


def each(names: Iterable[str], do: Callable[[str], str], output: Output) -> Exit:
    """Runs `do` on each workload and prints its report. Continues after a LuodError; raises the last one at the end."""
    failure: LuodError | None = None
    for name in _whole(names):
        try:
            report = do(name)
        except LuodError as error:
            if failure is not None:
                output.failure(kind(failure), str(failure), failure.hint)
            failure = error
            continue
        if output.json:
            output.object({"session": name, "report": report})
        else:
            output.line(f"{escaped(name)}: {escaped(report) or 'done'}")
    if failure is not None:
        raise failure
    return Exit.DONE


def _whole(names: Iterable[str]) -> list[str]:
    """Returns each name once, without NAME#GENERATION if the workload NAME is among them."""
    given = dict.fromkeys(map(SessionName.parse, names))
    return [str(name) for name in given if name.generation is None or SessionName(name.base) not in given]
