"""How every command speaks of a user's error: one line on stderr, exit status 2."""

import argparse
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

USER_ERROR = 2
INTERRUPTED = 130  # a shell's exit status for Ctrl-C
READER_GONE = 141  # a shell's exit status for SIGPIPE


class OneLineParser(argparse.ArgumentParser):
    """An argument parser whose errors are one line, and which takes no abbreviations."""

    def __init__(self, **options: object) -> None:
        super().__init__(allow_abbrev=False, **options)  # type: ignore[arg-type]

    def error(self, message: str) -> NoReturn:
        """Print the error and the way to help, and exit with status 2."""
        line = " ".join(message.split())
        print(f"{self.prog}: {line}; see {self.prog} --help.", file=sys.stderr)
        sys.exit(USER_ERROR)


@contextmanager
def exit_on_user_error() -> Iterator[None]:
    """Turn what a user can cause into one line and an exit status.

    ValueError and OSError give 2; Ctrl-C, where nothing needs saving, gives 130; a reader of the
    output that has gone, as `head` does, gives 141, without a line.
    """
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        # What is left in the buffer goes nowhere, or the interpreter would complain at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(READER_GONE)
    except (ValueError, OSError) as error:
        print(f"error: {one_line(error)}", file=sys.stderr)
        sys.exit(USER_ERROR)
    except KeyboardInterrupt:
        print("stopped.", file=sys.stderr)
        sys.exit(INTERRUPTED)


def parse_path(text: str, name: str, kind: str = "a folder") -> Path:
    """The path that an argument names.

    Args:
        text: What the user typed.
        name: The argument, as messages call it.
        kind: What it should name, for the message.

    Raises:
        ValueError: If it is empty or has characters that cannot be printed.
    """
    if not text.strip() or not text.isprintable():
        raise ValueError(f"{name} must name {kind}, got {text!r:.60}.")
    return Path(text)


def one_line(error: BaseException) -> str:
    """What an exception says, on one line."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return " ".join(str(error).split()) or type(error).__name__
