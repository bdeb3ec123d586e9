import json
import math
from typing import Annotated, Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field

from configs.settings import (
    Argument,
    Flag,
    SavedSettings,
    Settings,
    describe_unknown,
    parse_assignments,
)
from tests.refusals import refusal


class Example(Settings):
    count: Annotated[int, Field(ge=1, le=64), Flag("--count", "how many")]
    share: Annotated[float, Field(gt=0, lt=1)]
    free: float
    switch: bool
    text: str
    choice: Literal["one", "two"]
    layers: tuple[Annotated[int, Field(ge=0, le=2)], ...]


class Saved(SavedSettings):
    part: Example
    number: int


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


@given(examples, st.integers())
def test_a_file_holds_what_was_saved(example, number):
    saved = Saved(part=example, number=number)
    assert Saved.from_mapping(json.loads(saved.to_json()), "file") == saved


@given(examples)
def test_what_is_typed_is_what_is_built(example):
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
    built = Example.parse(parse_assignments(assignments, VALUES, {}))
    assert built == example.replace(text=example.text.strip())


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
) | st.sampled_from([10**400, -(10**400), 10**30])


@given(st.sampled_from(sorted(VALUES)), json_values)
def test_parse_gives_a_valid_object_or_one_line(name, value):
    try:
        built = Example.parse(VALUES | {name: value}, "file")
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


@given(st.lists(st.text() | st.builds("{}={}".format, st.sampled_from(list(VALUES)), st.text())))
def test_assignments_raise_nothing_but_one_line(assignments):
    try:
        Example.parse(VALUES | parse_assignments(assignments, VALUES, {}))
    except ValueError as error:
        line = str(error)
        assert line.startswith("--set")
        assert "\n" not in line


COUNT = "`count` must be a whole number at least 1 and at most 64"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (VALUES | {"cuont": 3}, "file: unknown setting 'cuont'; did you mean `count`?"),
        (
            {name: value for name, value in VALUES.items() if name != "text"},
            "file: `text` is missing; add it.",
        ),
        (VALUES | {"count": 65}, f"file: {COUNT}, got 65."),
        (VALUES | {"share": 1}, "file: `share` must be a number above 0 and below 1, got 1."),
        (VALUES | {"free": math.nan}, "file: `free` must be a number, got nan."),
        (VALUES | {"free": math.inf}, "file: `free` must be a number, got inf."),
        (VALUES | {"switch": 1}, "file: `switch` must be true or false, got 1."),
        (VALUES | {"text": None}, "file: `text` must be text, got none."),
        (VALUES | {"text": "a\nb"}, "file: `text` must be printable text, got 'a\\nb'."),
        (VALUES | {"choice": 1}, "file: `choice` must be one of one, two, got 1."),
        (VALUES | {"layers": {}}, "file: `layers` must be a list, got {}."),
        (
            VALUES | {"layers": [True]},
            "file: `layers` must be a whole number at least 0 and at most 2, got true.",
        ),
        (VALUES | {"count": Argument("1k", "--count")}, f"file: --count: {COUNT}, got 1_000."),
    ],
)
def test_parse_names_what_is_wrong(values, message):
    assert refusal(Example.parse, values, "file") == message


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        *[("number", text, 1_000) for text in ("1_000", "1000.0", "1e3", "1k", "1K", "0.001M")],
        ("number", "2.3M", 2_300_000),
        ("number", "-5", -5),
        *[("number", text, None) for text in ("1.5", "1.2345k", "k", "1kk", "1m", "nan", "inf")],
        ("number", "1e999999999", None),
        ("free", "2.5e-4", 0.00025),
        ("free", "3", 3.0),
        ("switch", "TRUE", True),
        ("switch", "false", False),
        ("layers", "0, 2", (0, 2)),
        ("layers", "0 2", (0, 2)),
        ("layers", "", ()),
        ("text", " a b ", " a b "),
    ],
)
def test_text_becomes_a_value_of_the_settings_kind(name, text, value):
    class Values(Settings):
        number: int = 0
        free: float = 0.0
        switch: bool = False
        layers: tuple[int, ...] = ()
        text: str = ""

    values = {name: Argument(text, "--x")}
    if value is None:
        message = f"--x: `number` must be a whole number, got {text!r}."
        assert refusal(Values.parse, values) == message
    else:
        parsed = getattr(Values.parse(values), name)
        assert parsed == value
        assert type(parsed) is type(value)


def test_settings_do_not_change():
    example = Example.parse(VALUES)
    with pytest.raises(ValueError, match="frozen"):
        example.count = 4
    assert example.replace(count=4) == Example.parse(VALUES | {"count": 4})
    with pytest.raises(ValueError, match=r"^`count` must be a whole number [^\n]*, got 0\.$"):
        example.replace(count=0)


@pytest.mark.parametrize(
    ("name", "known", "line"),
    [
        ("x\n" * 10**6, ["gamma"], f"unknown setting {repr('x' + chr(10))[:-1]}"),
        ("?", ["a", "b"], "unknown setting '?'; known: a, b."),
        ("???", [f"x{i}" for i in range(9)], "unknown setting '???'; known: x"),
    ],
)
def test_an_unknown_name_is_told_briefly(name, known, line):
    told = describe_unknown(name, known)
    assert told.startswith(line)
    assert len(told) < 120
    assert told.count(",") <= 5
