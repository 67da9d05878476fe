"""`luod.frozen`: classes of immutable values that behave as those of dataclasses do."""

from __future__ import annotations

import copy
import dataclasses
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

import luod
from luod.frozen import frozen, has_default, member_types, members, replace

SOURCE: Final = Path(luod.__path__[0])


@frozen
class Point:
    x: int
    y: int = 2


@frozen
class Named(Point):
    name: str = ""

    def __post_init__(self) -> None:
        if self.x < 0:
            raise ValueError("x is negative")


def test_arguments_are_positional_or_named_and_defaults_fill_the_rest() -> None:
    assert (Point(1), Point(1, 2), Point(y=2, x=1)) == (Point(1, 2),) * 3
    assert Named(1, name="a") == Named(1, 2, "a")


@pytest.mark.parametrize(
    ("positional", "named", "problem"),
    [
        ((), {}, "needs the argument 'x'"),
        ((1, 2, 3), {}, "takes 2 arguments, not 3"),
        ((1,), {"x": 1}, "takes one 'x'"),
        ((1, 2), {"y": 1}, "takes one 'y'"),
        ((1,), {"z": 1}, "takes no 'z'"),
    ],
)
def test_wrong_arguments_are_a_type_error_that_names_them(
    positional: tuple[int, ...], named: dict[str, int], problem: str
) -> None:
    with pytest.raises(TypeError, match=problem):
        Point(*positional, **named)


def test_an_object_cannot_be_changed() -> None:
    point = Point(1)

    with pytest.raises(AttributeError, match=r"Point\.x cannot be changed"):
        point.x = 2  # type: ignore[misc]  # what is tested
    with pytest.raises(AttributeError, match=r"Point\.x cannot be changed"):
        del point.x

    assert point == Point(1)


def test_only_objects_of_one_class_with_equal_members_are_equal() -> None:
    assert Point(1) != Point(2)
    assert Named(1) != Point(1)
    assert Point(1).__eq__((1, 2)) is NotImplemented
    assert len({Point(1), Point(1), Point(2)}) == 2


def test_the_members_come_in_order_in_repr_and_patterns() -> None:
    match Named(y=5, x=1, name="a"):
        case Named(1, y, name=name):
            assert (y, name) == (5, "a")
    assert repr(Named(name="a", x=1)) == "Named(x=1, y=2, name='a')"


def test_a_class_may_check_its_members() -> None:
    with pytest.raises(ValueError, match="x is negative"):
        Named(-1)


def test_replace_changes_members_of_a_copy() -> None:
    point = Named(1, 2, "a")

    assert replace(point, x=3) == Named(3, 2, "a")
    assert point == Named(1, 2, "a")
    with pytest.raises(TypeError, match="takes no 'z'"):
        replace(point, z=1)


def test_copies_and_pickles_are_equal() -> None:
    assert copy.copy(Named(1)) == copy.deepcopy(Named(1)) == pickle.loads(pickle.dumps(Named(1))) == Named(1)


def test_members_of_a_class_are_known_with_their_annotations() -> None:
    assert members(Named) == ("x", "y", "name")
    assert member_types(Named) == {"x": "int", "y": "int", "name": "str"}
    assert [has_default(Named, member) for member in members(Named)] == [False, True, True]
    assert members(int) == ()


def test_it_behaves_as_a_frozen_dataclass() -> None:
    @dataclasses.dataclass(frozen=True)
    class Other:
        x: int
        y: int = 2

    assert repr(Other(1)).rpartition(".")[2] == repr(Point(1)).replace("Point", "Other")
    assert hash(Other(1, 3)) == hash(Point(1, 3))


def test_it_imports_nothing() -> None:
    program = "import sys; before = set(sys.modules); import frozen; print(*(set(sys.modules) - before))"

    found = subprocess.run(
        [sys.executable, "-I", "-c", f"import sys; sys.path.insert(0, {str(SOURCE)!r}); {program}"],
        capture_output=True,
        text=True,
        check=True,
    )

    assert set(found.stdout.split()) == {"frozen", "__future__"}
