"""Typed, checked settings: any frozen dataclass, from a mapping, a file or `key=value` text.

A settings class is a frozen dataclass without defaults whose fields are annotated with one of the
types below; defaults live in the preset files beside this module, each with its unit and source.

    int, float, bool, str, Literal[...], tuple[int, ...]

`Annotated[int, Bounds(1, 64)]` limits a number (or every entry of a tuple).
"""

import dataclasses
import difflib
import math
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin, get_type_hints

Settings = TypeVar("Settings")

_PRESETS = Path(__file__).parent


@dataclasses.dataclass(frozen=True)
class Bounds:
    """Inclusive limits of a number; `above` and `below` exclude the limit itself."""

    minimum: float | None = None
    maximum: float | None = None
    above: float | None = None
    below: float | None = None

    def hold(self, number: float) -> bool:
        """Tell whether `number` is within the limits (NaN never is)."""
        return not (
            number != number
            or (self.minimum is not None and number < self.minimum)
            or (self.maximum is not None and number > self.maximum)
            or (self.above is not None and number <= self.above)
            or (self.below is not None and number >= self.below)
        )

    def __str__(self) -> str:
        lower = (
            f"above {_show(self.above)}"
            if self.above is not None
            else f"at least {_show(self.minimum)}"
            if self.minimum is not None
            else ""
        )
        upper = (
            f"below {_show(self.below)}"
            if self.below is not None
            else f"at most {_show(self.maximum)}"
            if self.maximum is not None
            else ""
        )
        return " and ".join(part for part in (lower, upper) if part)


def build(settings_class: type[Settings], values: Mapping[str, Any], source: str) -> Settings:
    """Make a settings object from `values`, checking every name, type and limit.

    Args:
        settings_class: A frozen dataclass as described above.
        values: One entry per field, as JSON or TOML gives them (lists stand for tuples).
        source: What to call `values` in error messages: a file, or `--set`.

    Raises:
        ValueError: For an unknown, missing, ill-typed or out-of-range entry; one line.
    """
    annotations = annotations_of(settings_class)
    for name in values:
        if name not in annotations:
            raise ValueError(f"{source}: {describe_unknown(name, annotations)}")
    missing = [name for name in annotations if name not in values]
    if missing:
        raise ValueError(f"{source}: `{missing[0]}` is missing; add it.")
    checked = {
        name: _check(name, values[name], annotation, source)
        for name, annotation in annotations.items()
    }
    return settings_class(**checked)


def as_mapping(settings: Any) -> dict[str, Any]:
    """Turn a settings object into what JSON can hold; `build` is its inverse."""
    return {
        field.name: list(value)
        if isinstance(value := getattr(settings, field.name), tuple)
        else value
        for field in dataclasses.fields(settings)
    }


def annotations_of(settings_class: type) -> dict[str, Any]:
    """Field names and their full annotations, in the order of definition."""
    hints = get_type_hints(settings_class, include_extras=True)
    return {field.name: hints[field.name] for field in dataclasses.fields(settings_class)}


def parse_assignments(
    assignments: Iterable[str], annotations: Mapping[str, Any], option: str = "--set"
) -> dict[str, Any]:
    """Read repeated `key=value` texts as typed values.

    Args:
        assignments: The texts, as typed on the command line.
        annotations: The keys that may be set, with their types.
        option: The command-line option they came from, for messages.

    Raises:
        ValueError: For a text without `=`, an unknown or repeated key, or a value of the wrong
            type or range; one line.
    """
    values: dict[str, Any] = {}
    for assignment in assignments:
        name, equals, text = assignment.partition("=")
        name = name.strip()
        if not equals or not name:
            raise ValueError(f"{option} takes key=value, got {assignment!r}.")
        if name not in annotations:
            raise ValueError(f"{option}: {describe_unknown(name, annotations)}")
        if name in values:
            raise ValueError(f"{option}: `{name}` is given twice; give it once.")
        values[name] = parse_value(name, text.strip(), annotations[name], option)
    return values


def parse_value(name: str, text: str, annotation: Any, source: str) -> Any:
    """Read one value of the annotated type from text, and check it."""
    kind, _ = _unwrap(annotation)
    value: Any = text
    if get_origin(kind) is tuple:
        (entry, _) = get_args(kind)
        parts = [part for part in text.replace(",", " ").split() if part]
        value = [_number(name, part, entry, annotation, source) for part in parts]
    elif kind in (int, float):
        value = _number(name, text, kind, annotation, source)
    elif kind is bool:
        truths = {"true": True, "false": False}
        if text.lower() not in truths:
            raise ValueError(f"{source}: `{name}` must be true or false, got {text!r}.")
        value = truths[text.lower()]
    return _check(name, value, annotation, source)


def describe_unknown(name: str, known: Iterable[str], kind: str = "setting") -> str:
    """Say that `name` is unknown and which known name is nearest, as part of a message."""
    names = list(known)
    nearest = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    remedy = f"did you mean `{nearest[0]}`?" if nearest else f"known: {', '.join(names)}."
    return f"unknown {kind} {name!r:.60}; {remedy}"


def load_preset(name: str) -> dict[str, Any]:
    """Read one of the preset files beside this module, such as `a2c` for `a2c.toml`."""
    with (_PRESETS / f"{name}.toml").open("rb") as file:
        return tomllib.load(file)


def differing_keys(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """The keys whose values differ, or that only one of two mappings has, sorted."""
    absent = object()
    return sorted(key for key in {*one, *other} if one.get(key, absent) != other.get(key, absent))


def _unwrap(annotation: Any) -> tuple[Any, Bounds]:
    if get_origin(annotation) is Annotated:
        kind, *extras = get_args(annotation)
        return kind, next((extra for extra in extras if isinstance(extra, Bounds)), Bounds())
    return annotation, Bounds()


def _check(name: str, value: Any, annotation: Any, source: str) -> Any:
    kind, bounds = _unwrap(annotation)
    if get_origin(kind) is Literal:
        choices = get_args(kind)
        if not isinstance(value, str) or value not in choices:
            allowed = ", ".join(str(choice) for choice in choices)
            raise ValueError(f"{source}: `{name}` must be one of {allowed}, got {_show(value)}.")
        return value
    if get_origin(kind) is tuple:
        if not isinstance(value, Sequence) or isinstance(value, str):
            raise ValueError(f"{source}: `{name}` must be a list, got {_show(value)}.")
        (entry, _) = get_args(kind)
        return tuple(_check(name, part, Annotated[entry, bounds], source) for part in value)
    if kind is float and type(value) is int:
        value = _as_float(value)
    if kind not in (int, float, bool, str):
        raise TypeError(f"settings cannot hold {kind}")
    if type(value) is not kind:
        raise ValueError(
            f"{source}: `{name}` must be {_describe(kind, bounds)}, got {_show(value)}."
        )
    if kind in (int, float) and (not bounds.hold(value) or value in (math.inf, -math.inf)):
        raise ValueError(
            f"{source}: `{name}` must be {_describe(kind, bounds)}, got {_show(value)}."
        )
    if kind is str and not value.isprintable():
        raise ValueError(f"{source}: `{name}` must be printable text, got {_show(value)}.")
    return value


def _number(name: str, text: str, kind: type, annotation: Any, source: str) -> int | float:
    try:
        if kind is int:
            try:
                return int(text)
            except ValueError:
                number = float(text)  # 1e6 is a whole number too
                if number.is_integer():
                    return int(number)
                raise
        return float(text)
    except (ValueError, OverflowError):
        _, bounds = _unwrap(annotation)
        raise ValueError(
            f"{source}: `{name}` must be {_describe(kind, bounds)}, got {_show(text)}."
        ) from None


def _as_float(number: int) -> float:
    try:
        return float(number)
    except OverflowError:
        return math.inf


def _describe(kind: type, bounds: Bounds) -> str:
    names = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
    return " ".join(part for part in (names[kind], str(bounds)) if part)


def _show(value: Any) -> str:
    if isinstance(value, bool | NoneType):
        return str(value).lower()
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        value = int(value)
    text = f"{value:_}" if isinstance(value, int) and abs(value) < 10**30 else repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
