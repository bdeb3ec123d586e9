"""How a user names a network of their own: `module:Class`, and `key=value` for its arguments.

Such a name becomes part of a run's path, and is read from files that may be a stranger's: here it
is only text. `agents/models/own_extractor.py` imports what a user has named.
"""

import json
import re
from collections.abc import Iterable
from typing import Any

from configs.settings import show

_NAME = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*", re.ASCII)
_ARGUMENT = re.compile(r"([A-Za-z_]\w*)=([!-.0-~]*)", re.ASCII)  # a folder's name can hold it
_MOST_LETTERS = 100  # of an argument
_WORDS = {"true": True, "false": False, "none": None, "null": None}


def check_name(name: str) -> None:
    """Refuse what is not `module:Class` with a ValueError."""
    if not _NAME.fullmatch(name):
        raise ValueError(
            f"`extractor` must be a module and a class of it, such as mynets:ImpalaCNN, got "
            f"{show(name)}."
        )


def rewrite_arguments(arguments: Iterable[str]) -> tuple[str, ...]:
    """The same `key=value` texts, sorted, each value written in one way.

    Raises:
        ValueError: For a text of another form, or a key that is given twice; one line.
    """
    texts: dict[str, str] = {}
    for argument in arguments:
        key, equals, text = (part.strip() for part in argument.partition("="))
        value = _read_value(text) if len(text) <= _MOST_LETTERS else text
        if not isinstance(value, str):
            text = json.dumps(value, separators=(",", ":"))
        rewritten = f"{key}{equals}{text}"
        if len(rewritten) > _MOST_LETTERS or not _ARGUMENT.fullmatch(rewritten):
            raise ValueError(
                "`extractor_settings` must be key=value, without spaces and slashes and at most "
                f"{_MOST_LETTERS} letters long, got {show(argument)}."
            )
        if key in texts:
            raise ValueError(f"`extractor_settings` give {key} twice; give it once.")
        texts[key] = rewritten
    return tuple(texts[key] for key in sorted(texts))


def read_arguments(arguments: Iterable[str]) -> dict[str, Any]:
    """The values by key of what `rewrite_arguments` returned."""
    pairs = (argument.partition("=") for argument in arguments)
    return {key: _read_value(text) for key, _, text in pairs}


def split_arm(text: str) -> tuple[str, list[str]]:
    """`module:Class,key=value,...` as `module:Class` and its arguments; a value may have commas."""
    name, *arguments = re.split(r",(?=\w+=)", text)
    return name, arguments


def _read_value(text: str) -> Any:
    """true, false, none, or what JSON makes of it: a number, a list; else the text itself."""
    if text.lower() in _WORDS:
        return _WORDS[text.lower()]
    try:
        return json.loads(text)
    except ValueError:
        return text
