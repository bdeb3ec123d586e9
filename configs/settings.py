"""Settings: frozen, checked once where they are made, with one line for whoever gets one wrong.

A class of settings has one field per value, of one of the types

    int, float, bool, str, Literal[...], tuple[int, ...], tuple[str, ...]

or of another class of settings, a section. `Annotated[int, Field(ge=1, le=64)]` limits a number,
`Flag` gives a field an option of its own on the command line. Defaults live in the preset files
beside this module, each with its unit and source.
"""

import difflib
import json
import tomllib
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, Self, get_args, get_origin

from pydantic import (
    BaseModel,
    ConfigDict,
    TypeAdapter,
    ValidationError,
    ValidationInfo,
    ValidatorFunctionWrapHandler,
    field_validator,
    model_validator,
)

FORMAT_VERSION = 2
LARGEST = 1e30  # of factors: float32 must hold it

_PRESETS = Path(__file__).parent
_MULTIPLES = {"k": 1_000, "K": 1_000, "M": 1_000_000, "G": 1_000_000_000}
_KINDS = {  # by the names of JSON schemas, as the limits
    "integer": "a whole number",
    "number": "a number",
    "boolean": "true or false",
    "string": "text",
    "array": "a list",
    "object": "a section",
}
_LIMITS = {
    "minimum": "at least",
    "exclusiveMinimum": "above",
    "maximum": "at most",
    "exclusiveMaximum": "below",
}
_MAX_DIGITS = 4_000  # Python writes no longer numbers


@dataclass(frozen=True)
class Flag:
    """The option that a setting has beside `--set`; goes into the field's `Annotated`."""

    name: str
    help: str
    metavar: str = "N"


Flags = dict[str, tuple[Flag, Any]]  # flags and their fields' types, by the settings' names


class Argument(str):
    """A value as it was typed, and the option it was typed for."""

    option: str

    def __new__(cls, text: str, option: str) -> Self:
        """Keep the option beside the text."""
        argument = super().__new__(cls, text)
        argument.option = option
        return argument


class Settings(BaseModel):
    """What all settings have in common.

    A field takes its value as Python, JSON and TOML give it (a list stands for a tuple), or as an
    `Argument`. Whatever is wrong raises a ValueError, which `parse` makes one line.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    @classmethod
    def parse(cls, values: Any, source: str = "") -> Self:
        """Make settings of a mapping; `source` is the file it is from, for messages.

        Raises:
            ValueError: For an unknown, missing, ill-typed or out-of-range value; one line.
        """
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
        line = str(first.get("ctx", {}).get("error") or first["msg"])
        raise ValueError(f"{source}: {line}" if source else line)

    def replace(self, **changes: Any) -> Self:
        """The same settings but for some; raises as `parse` does."""
        return self.parse(dict(self) | changes)

    @model_validator(mode="before")
    @classmethod
    def _check_names(cls, values: Any) -> Any:
        if isinstance(values, dict):
            for name in values:
                if name not in cls.model_fields:
                    raise ValueError(describe_unknown(str(name), cls.model_fields))
            for name, field in cls.model_fields.items():
                if field.is_required() and name not in values:
                    raise ValueError(
                        f"the section `{name}` is missing; restore the file."
                        if _is_section(field.annotation)
                        else f"`{name}` is missing; add it."
                    )
        return values

    @field_validator("*", mode="wrap")
    @classmethod
    def _check_value(
        cls, value: Any, check: ValidatorFunctionWrapHandler, info: ValidationInfo
    ) -> Any:
        """Read text and lists, and say in this project's words what pydantic finds wrong."""
        assert info.field_name is not None
        name, field = info.field_name, cls.model_fields[info.field_name]
        option = ""
        if isinstance(value, Argument):
            option = f"{value.option}: "
            value = _read_text(value, field.annotation)
        elif isinstance(value, list) and get_origin(field.annotation) is tuple:
            value = tuple(value)
        if field.annotation is str and isinstance(value, str) and not value.isprintable():
            raise ValueError(f"{option}`{name}` must be printable text, got {show(value)}.")
        try:
            return check(value)
        except ValidationError as error:
            (first, *_) = error.errors(include_url=False)
            if first["type"] == "value_error":
                raise
            if _is_section(field.annotation):
                line = f"the section `{name}` is missing; restore the file."
                raise ValueError(line) from None
            wanted, got = _describe(field.annotation, field.metadata), value
            if first["loc"]:  # an entry of a tuple
                wanted, got = _describe(get_args(field.annotation)[0], ()), first["input"]
            line = f"{option}`{name}` must be {wanted}, got {show(got)}."
        raise ValueError(line)


class SavedSettings(Settings):
    """Settings that are kept in a JSON file, with the version of its format."""

    def to_json(self) -> str:
        """The text of the file."""
        values = {"format_version": FORMAT_VERSION} | self.model_dump(mode="json")
        return json.dumps(values, indent=2) + "\n"

    @classmethod
    def from_mapping(cls, values: Any, source: str) -> Self:
        """Make settings of what a file holds; ValueError if it is damaged or of another format."""
        if not isinstance(values, dict):
            raise ValueError(f"{source}: a config must be a JSON object; restore the file.")
        version = values.get("format_version")
        if type(version) is not int or version != FORMAT_VERSION:
            raise ValueError(
                f"{source}: format version {version!r:.60} is not the one this release reads "
                f"({FORMAT_VERSION}); use the release that wrote it."
            )
        return cls.parse({n: v for n, v in values.items() if n != "format_version"}, source)


def load_preset(name: str) -> dict[str, Any]:
    """Read one of the preset files beside this module, such as `a2c` for `a2c.toml`."""
    with (_PRESETS / f"{name}.toml").open("rb") as file:
        return tomllib.load(file)


def override(sections: Mapping[str, dict[str, Any]], overrides: Mapping[str, Any]) -> None:
    """Replace values by name, whichever section has them, in place; ValueError if none has."""
    for name, value in overrides.items():
        section = next((values for values in sections.values() if name in values), None)
        if section is None:
            known = [name for values in sections.values() for name in values]
            raise ValueError(describe_unknown(name, known))
        section[name] = value


def parse_assignments(
    assignments: Iterable[str],
    known: Collection[str],
    flags: Mapping[str, Any],
    elsewhere: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Read the `key=value` texts of `--set`, whose keys must be known, and add what flags have set.

    Settings that are set in some other way are `elsewhere`, with words that say how.

    Raises:
        ValueError: For a text without `=`, or an unknown or repeated key; one line.
    """
    values: dict[str, Any] = {}
    for assignment in assignments:
        name, equals, text = (part.strip() for part in assignment.partition("="))
        if not equals or not name:
            raise ValueError(f"--set takes key=value, got {assignment!r}.")
        if name not in known and elsewhere and name in elsewhere:
            raise ValueError(f"--set: `{name}` {elsewhere[name]}.")
        if name not in known:
            raise ValueError(f"--set: {describe_unknown(name, known)}")
        if name in values:
            raise ValueError(f"--set: `{name}` is given twice; give it once.")
        if name in flags:
            raise ValueError(f"--set: `{name}` is set by its option, too; give one of them.")
        values[name] = Argument(text, "--set")
    return {**values, **flags}


def flags_of(*kinds: type[Settings]) -> Flags:
    """The flags of some classes' fields and the fields' types, by the settings' names."""
    return {
        name: (flag, field.annotation)
        for kind in kinds
        for name, field in kind.model_fields.items()
        for flag in field.metadata
        if isinstance(flag, Flag)
    }


def describe_unknown(name: str, known: Iterable[str], kind: str = "setting") -> str:
    """Say that `name` is unknown and which known name is nearest, as part of a message."""
    names = list(known)
    if nearest := difflib.get_close_matches(name, names, n=1, cutoff=0.5):
        remedy = f"did you mean `{nearest[0]}`?"
    else:
        near = names if len(names) <= 5 else difflib.get_close_matches(name, names, n=5, cutoff=0)
        remedy = f"known: {', '.join(near)}{', ...' if len(names) > 5 else '.'}"
    return f"unknown {kind} {name!r:.60}; {remedy}"


def differing_keys(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """The keys whose values differ, or that only one of two mappings has, sorted."""
    absent = object()
    return sorted(key for key in {*one, *other} if one.get(key, absent) != other.get(key, absent))


def show(value: Any) -> str:
    """A value as messages show it: short, and numbers as they are typed."""
    if isinstance(value, bool | NoneType):
        return str(value).lower()
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        value = int(value)
    text = f"{value:_}" if isinstance(value, int) and abs(value) < 10**30 else repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _is_section(annotation: Any) -> bool:
    kinds = [kind for kind in get_args(annotation) or (annotation,) if kind is not NoneType]
    return all(isinstance(kind, type) and issubclass(kind, Settings) for kind in kinds)


def _read_text(text: str, annotation: Any) -> Any:
    """The value that a text stands for; the text itself where it stands for none."""
    if get_origin(annotation) is tuple:
        kind = get_args(annotation)[0]
        return tuple(_read_text(part, kind) for part in text.replace(",", " ").split())
    if get_origin(annotation) is Annotated:
        annotation = get_args(annotation)[0]
    if annotation is int:
        return _read_whole(text)
    if annotation is float:
        try:
            return float(text)
        except ValueError:
            return str(text)
    if annotation is bool:
        return {"true": True, "false": False}.get(text.lower(), str(text))
    return str(text)


def _read_whole(text: str) -> int | str:
    """1000, 1_000, 1e3, 1k; millions are M."""
    digits, multiple = (text[:-1], _MULTIPLES[text[-1:]]) if text[-1:] in _MULTIPLES else (text, 1)
    try:
        number = Decimal(digits)
        if number.adjusted() < _MAX_DIGITS and int(number * multiple) == number * multiple:
            return int(number) if multiple == 1 else int(number * multiple)
    except (InvalidOperation, ValueError, OverflowError):
        pass
    return str(text)


def _describe(annotation: Any, metadata: Iterable[Any]) -> str:
    """What a value must be."""
    schema = TypeAdapter(Annotated[annotation, None, *metadata]).json_schema()
    if "enum" in schema:
        return f"one of {', '.join(map(str, schema['enum']))}"
    limits = [f"{words} {show(schema[name])}" for name, words in _LIMITS.items() if name in schema]
    return " ".join([_KINDS[schema["type"]], " and ".join(limits)]).strip()
