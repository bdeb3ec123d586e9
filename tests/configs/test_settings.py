import dataclasses
import math
import re
from typing import Annotated, Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from configs.settings import (
    Bounds,
    annotations_of,
    as_mapping,
    build,
    describe_unknown,
    differing_keys,
    load_preset,
    parse_assignments,
    parse_value,
)


@dataclasses.dataclass(frozen=True)
class Example:
    count: Annotated[int, Bounds(1, 64)]
    share: Annotated[float, Bounds(above=0, below=1)]
    free: float
    switch: bool
    text: str
    choice: Literal["one", "two"]
    layers: Annotated[tuple[int, ...], Bounds(0, 2)]


EXAMPLE = Example(3, 0.5, -2.0, True, "é", "two", (0, 2))
VALUES: dict[str, Any] = {
    "count": 3,
    "share": 0.5,
    "free": -2,
    "switch": True,
    "text": "é",
    "choice": "two",
    "layers": [0, 2],
}

examples = st.builds(
    Example,
    count=st.integers(1, 64),
    share=st.floats(0, 1, exclude_min=True, exclude_max=True),
    free=st.floats(allow_nan=False, allow_infinity=False),
    switch=st.booleans(),
    text=st.text().filter(str.isprintable),
    choice=st.sampled_from(["one", "two"]),
    layers=st.lists(st.integers(0, 2)).map(tuple),
)


def test_build_turns_lists_into_tuples_and_whole_numbers_into_floats() -> None:
    built = build(Example, VALUES, "file")
    assert built == EXAMPLE
    assert type(built.free) is float


@settings(deadline=None)
@given(examples)
def test_build_is_the_inverse_of_as_mapping(example: Example) -> None:
    assert build(Example, as_mapping(example), "file") == example


@settings(deadline=None)
@given(examples)
def test_what_is_typed_is_what_is_built(example: Example) -> None:
    """Text with spaces around it is trimmed, so such texts are left out."""
    as_typed = {
        "count": str(example.count),
        "share": repr(example.share),
        "free": repr(example.free),
        "switch": str(example.switch),
        "text": example.text.strip(),
        "choice": example.choice,
        "layers": ",".join(map(str, example.layers)),
    }
    assignments = [f"{name}={text}" for name, text in as_typed.items()]
    values = parse_assignments(assignments, annotations_of(Example))
    assert Example(**values) == dataclasses.replace(example, text=example.text.strip())


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
) | st.sampled_from([10**400, -(10**400), 10**30])


@settings(deadline=None)
@given(st.sampled_from(sorted(VALUES)), json_values)
def test_build_gives_a_valid_object_or_one_line(name: str, value: Any) -> None:
    try:
        built = build(Example, VALUES | {name: value}, "file")
    except ValueError as error:
        line = str(error)
        assert line.startswith(f"file: `{name}` must be ")
        assert "\n" not in line
        assert len(line) < 200
    else:
        assert 1 <= built.count <= 64
        assert 0 < built.share < 1
        assert math.isfinite(built.free)
        assert set(built.layers) <= {0, 1, 2}


@settings(deadline=None)
@given(st.lists(st.text() | st.builds("{}={}".format, st.sampled_from(list(VALUES)), st.text())))
def test_parse_assignments_raises_nothing_but_one_line(assignments: list[str]) -> None:
    try:
        values = parse_assignments(assignments, annotations_of(Example))
    except ValueError as error:
        line = str(error)
        assert line.startswith("--set")
        assert "\n" not in line
    else:
        build(Example, VALUES | values, "file")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (VALUES | {"cuont": 3}, "file: unknown setting 'cuont'; did you mean `count`?"),
        (
            VALUES | {"?": 3},
            "file: unknown setting '?'; known: count, share, free, switch, text, choice, layers.",
        ),
        (
            {name: value for name, value in VALUES.items() if name != "text"},
            "file: `text` is missing; add it.",
        ),
        (
            VALUES | {"count": 65},
            "file: `count` must be a whole number at least 1 and at most 64, got 65.",
        ),
        (VALUES | {"share": 1}, "file: `share` must be a number above 0 and below 1, got 1."),
        (VALUES | {"free": math.nan}, "file: `free` must be a number, got nan."),
        (VALUES | {"free": math.inf}, "file: `free` must be a number, got inf."),
        (VALUES | {"text": None}, "file: `text` must be text, got none."),
        (VALUES | {"text": "a\nb"}, "file: `text` must be printable text, got 'a\\nb'."),
        (VALUES | {"choice": 1}, "file: `choice` must be one of one, two, got 1."),
        (VALUES | {"layers": {}}, "file: `layers` must be a list, got {}."),
        (
            VALUES | {"layers": [True]},
            "file: `layers` must be a whole number at least 0 and at most 2, got true.",
        ),
    ],
)
def test_build_names_what_is_wrong(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        build(Example, values, "file")


@pytest.mark.parametrize(
    ("text", "annotation", "value"),
    [
        ("1_000", int, 1000),
        ("1e6", int, 1_000_000),
        ("2.5e-4", float, 0.00025),
        ("3", float, 3.0),
        ("TRUE", bool, True),
        ("false", bool, False),
        ("0, 2", tuple[int, ...], (0, 2)),
        ("0 2", tuple[int, ...], (0, 2)),
        ("", tuple[int, ...], ()),
        ("one", Literal["one"], "one"),
        (" a b ", str, " a b "),
    ],
)
def test_parse_value(text: str, annotation: Any, value: Any) -> None:
    parsed = parse_value("name", text, annotation, "--set")
    assert parsed == value
    assert type(parsed) is type(value)


def test_a_field_of_an_unknown_kind_is_our_own_mistake() -> None:
    with pytest.raises(TypeError, match="settings cannot hold"):
        parse_value("name", "x", complex, "--set")


@pytest.mark.parametrize(
    ("bounds", "number", "held"),
    [
        (Bounds(0), 0, True),
        (Bounds(0), -1e-9, False),
        (Bounds(above=0), 0, False),
        (Bounds(below=1), 1, False),
        (Bounds(maximum=1), 1, True),
        (Bounds(), math.nan, False),
        (Bounds(0, 1), 10**400, False),
        (Bounds(0), 10**400, True),
    ],
)
def test_bounds(bounds: Bounds, number: float, held: bool) -> None:
    assert bounds.hold(number) == held


def test_differing_keys() -> None:
    assert differing_keys({"a": 1, "b": 2, "c": 3}, {"a": 1, "b": 0, "d": 3}) == ["b", "c", "d"]


def test_describe_unknown_is_short_whatever_the_name() -> None:
    line = describe_unknown("x\n" * 10**6, ["gamma"])
    shown = repr("x\n" * 40)[:60]
    assert line == f"unknown setting {shown}; known: gamma."


def test_a_preset() -> None:
    assert load_preset("a2c")["hyperparameters"]["gamma"] == 0.99
