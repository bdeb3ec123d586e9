"""How a test asks for the message of an error, and writes down which it expects."""

from collections.abc import Callable
from typing import Any

import pytest


def refusal(
    call: Callable[..., object],
    *arguments: Any,
    error: type[Exception] = ValueError,
    **options: Any,
) -> str:
    """The one line of the error that a call must raise."""
    with pytest.raises(error) as caught:
        call(*arguments, **options)
    line = str(caught.value)
    assert "\n" not in line
    return line


def transcript(text: str) -> list[tuple[str, str]]:
    """Cases of what is asked, flush left, and of the line that answers it, indented below it."""
    cases: list[tuple[str, list[str]]] = []
    for line in text.strip().splitlines():
        if line.startswith(" "):
            cases[-1][1].append(line.strip())
        else:
            cases.append((line, []))
    return [(asked, " ".join(answer)) for asked, answer in cases]
