"""`luod.decode`: JSON values as typed values, and what does not fit is named."""

import enum
import json
import subprocess
import sys
import time
from typing import Any, Final

import pytest

from luod.decode import ABSENT, Decoder, Misfit, encode, encode_shortly
from luod.frozen import frozen
from luod.static import Literal

Colour = Literal["red", "green"]
Light = Literal[Colour, "off"]


class State(enum.StrEnum):
    OPEN = "open"
    SHUT = "shut"


@frozen
class Part:
    name: str
    size: int = 0
    light: Light = "off"
    note: str | None = None


@frozen
class Whole:
    parts: list[Part]
    weights: tuple[float, ...] = ()
    by_name: dict[str, Part] | None = None
    state: State = State.OPEN
    any: object = None


@frozen
class Circle:
    kind: Literal["circle"] = "circle"
    radius: int = 1


@frozen
class Square:
    kind: Literal["square"] = "square"
    side: int = 1


@frozen
class Drawing:
    shapes: tuple[Circle | Square, ...]


STRICT: Final = Decoder(strict=True)
LENIENT: Final = Decoder(strict=False)


def test_values_become_what_the_annotations_say() -> None:
    given = {
        "parts": [{"name": "a", "size": 2, "light": "red", "note": "x"}, {"name": "b"}],
        "weights": [1, 2.5],
        "by_name": {"c": {"name": "c"}},
        "state": "shut",
        "any": {"thing": [1]},
    }
    wanted = Whole([Part("a", 2, "red", "x"), Part("b")], (1.0, 2.5), {"c": Part("c")}, State.SHUT, {"thing": [1]})
    for decoder in (STRICT, LENIENT):
        whole = decoder(Whole, given)
        assert whole == wanted
        assert type(whole.weights[0]) is float
        assert whole.state is State.SHUT


def test_a_member_that_is_absent_is_its_default_or_none() -> None:
    assert STRICT(Whole, {"parts": []}) == LENIENT(Whole, {"parts": []}) == Whole([])
    assert STRICT.parameters({"a": int | None, "b": int}, {"b": 3})({}) == {"a": None, "b": 3}


WRONG: Final[dict[str, tuple[Any, str, type | None, object]]] = {
    "another type": ({"parts": [{"name": 1}]}, "parts[0].name", str, 1),
    "a boolean for a number": ({"parts": [{"name": "a", "size": True}]}, "parts[0].size", int, True),
    "a number for a boolean's object": ({"parts": 3}, "parts", list, 3),
    "no object": ([], "", dict, []),
    "an absent member": ({"parts": [{}]}, "parts[0].name", str, ABSENT),
    "an element of a tuple": ({"parts": [], "weights": [1, "2"]}, "weights[1]", float, "2"),
    "a number that no float holds": ({"parts": [], "weights": [10**400]}, "weights[0]", float, 10**400),
    "a member of a dict": ({"parts": [], "by_name": {"c": {"name": None}}}, "by_name.c.name", str, None),
    "a word that no enum has": ({"parts": [], "state": "ajar"}, "state", str, "ajar"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_value_that_does_not_fit_is_named_by_its_path(name: str) -> None:
    given, path, wanted, value = WRONG[name]
    for decoder in (STRICT, LENIENT):
        with pytest.raises(Misfit) as raised:
            decoder(Whole, given)
        misfit = raised.value
        assert (misfit.path, misfit.wanted, misfit.given) == (path, wanted, value)


TEXTS: Final[dict[str, tuple[Any, str]]] = {
    "a word": ({"parts": [{"name": "a", "light": "blue"}]}, "parts[0].light is 'blue', not one of red, green, off"),
    "no word": ({"parts": [{"name": "a", "light": 3}]}, "parts[0].light is 3, not one of red, green, off"),
    "a word of an enum": ({"parts": [], "state": "ajar"}, "state is 'ajar', not one of open, shut"),
    "a long word": ({"parts": [], "state": "a" * 99}, f"state is '{'a' * 59}, not one of open, shut"),
    "another type": ({"parts": [{"name": 1}]}, "parts[0].name is int, not str"),
    "the whole value": ([], "it is list, not dict"),
    "an absent member": ({}, "parts is missing"),
    "an unknown member": ({"parts": [], "n": 1}, "n is no known member; known: parts, weights, by_name, state, any"),
}


@pytest.mark.parametrize("name", TEXTS)
def test_the_text_of_a_misfit_names_what_was_given_and_what_is_allowed(name: str) -> None:
    given, text = TEXTS[name]
    with pytest.raises(Misfit) as raised:
        STRICT(Whole, given)
    assert str(raised.value) == text


def test_the_text_of_an_absent_word_names_the_allowed_ones() -> None:
    with pytest.raises(Misfit) as raised:
        STRICT(Drawing, {"shapes": [{}]})
    assert str(raised.value) == "shapes[0].kind is missing; known: circle, square"


NEWER: Final[dict[str, tuple[dict[str, object], str, tuple[str, ...], Part]]] = {
    "a member": ({"name": "a", "new": 1}, "new", ("name", "size", "light", "note"), Part("a")),
    "a word": ({"name": "a", "light": "blue"}, "light", ("red", "green", "off"), Part("a", light="blue")),  # type: ignore[arg-type]  # a newer program's
    "null for a default": ({"name": "a", "size": None}, "size", (), Part("a")),
}


@pytest.mark.parametrize("name", NEWER)
def test_what_only_a_newer_program_knows_is_refused_by_a_strict_decoder_and_accepted_otherwise(name: str) -> None:
    given, path, known, wanted = NEWER[name]
    assert LENIENT(Part, given) == wanted
    with pytest.raises(Misfit) as raised:
        STRICT(Part, given)
    assert (raised.value.path, raised.value.known) == (path, known)


def test_members_can_be_written_in_another_way() -> None:
    decoder = Decoder(strict=True, spelling=lambda name: name.replace("_", "-"))
    assert decoder(Whole, {"parts": [], "by-name": {}}) == Whole([], by_name={})
    with pytest.raises(Misfit) as raised:
        decoder(Whole, {"parts": [], "by-name": {"a": {"name": "a", "si_ze": 1}}})
    assert raised.value.path == "by-name.a.si_ze"


def test_a_further_type_has_its_own_reader() -> None:
    decoder = Decoder(strict=True, others={complex: lambda given: complex(*given)})
    assert decoder(list[complex], [[1, 2]]) == [1 + 2j]


def test_a_member_of_one_word_tells_the_classes_of_a_union() -> None:
    drawing = Drawing((Circle(radius=2), Square()))
    text = json.dumps(drawing, default=encode_shortly)
    assert json.loads(text) == {"shapes": [{"kind": "circle", "radius": 2}, {"kind": "square"}]}
    assert STRICT(Drawing, json.loads(text)) == drawing
    for shape in ({}, {"kind": "oval"}, {"kind": 1}):
        with pytest.raises(Misfit) as raised:
            STRICT(Drawing, {"shapes": [shape]})
        assert (raised.value.path, raised.value.known) == ("shapes[0].kind", ("circle", "square"))


def test_what_is_encoded_is_decoded_again() -> None:
    whole = Whole([Part("a", note="x")], (0.5,), {"b": Part("b", 3)}, State.SHUT)
    for default in (encode, encode_shortly):
        assert STRICT(Whole, json.loads(json.dumps(whole, default=default))) == whole
    assert encode(Part("a")) == {"name": "a", "size": 0, "light": "off", "note": None}
    assert encode_shortly(Part("a")) == {"name": "a"}
    with pytest.raises(TypeError):
        json.dumps({1}, default=encode)


def test_fifteen_thousand_values_are_decoded_in_the_time_of_a_few_parses() -> None:
    text = json.dumps({"parts": [{"name": "a", "size": 1}] * 5_000})

    def least(act: Any) -> float:
        taken = []
        for _ in range(5):
            begun = time.process_time()
            act()
            taken.append(time.process_time() - begun)
        return min(taken)

    given = json.loads(text)
    assert least(lambda: STRICT(Whole, given)) < 20 * least(lambda: json.loads(text))


def test_it_imports_nothing_but_the_frozen_classes_and_the_words_of_typing() -> None:
    program = "import sys, types, luod; known = {*sys.modules}; import luod.decode; print(*{*sys.modules} - known)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert sorted(done.stdout.split()) == ["luod.decode", "luod.frozen", "luod.static"]
