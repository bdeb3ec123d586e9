"""What every command does alike: flags, paths, and one line and status 2 for a user's error."""

import argparse
import errno
import io
import os
import select
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from pathlib import Path
from typing import Any, NoReturn, TextIO, get_args, get_origin

from configs.settings import Argument, Flags, show

FAILED = 1
USER_ERROR = 2
INTERRUPTED = 130  # a shell's exit status for Ctrl-C
READER_GONE = 141  # a shell's exit status for SIGPIPE
_STANDARD_ERROR = 2  # the last standard stream's number
_PATIENCE_SECONDS = 2.0  # with a terminal that was stopped, or a reader that does not read


class WorkFailure(RuntimeError):
    """The work failed, by no fault of what was asked; a command says so and exits with 1."""


class OneLineParser(argparse.ArgumentParser):
    """An argument parser whose errors are one line, and which takes no abbreviations.

    A description of several lines keeps them.
    """

    def __init__(self, **options: object) -> None:
        if "\n" in str(options.get("description")):
            options.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        super().__init__(allow_abbrev=False, **options)  # type: ignore[arg-type]

    def error(self, message: str) -> NoReturn:
        """Print the error and the way to help, and exit with status 2."""
        line = " ".join(message.split())
        print(f"error: {line}; see {self.prog} --help.", file=sys.stderr)
        sys.exit(USER_ERROR)


def add_flags(parser: Any, flags: Flags, defaults: Mapping[str, Any]) -> None:
    """Add the flags of settings, with their defaults, to a parser or a group of one."""
    for name, (flag, kind) in flags.items():
        if kind is bool:
            parser.add_argument(flag.name, dest=name, action="store_true", help=flag.help)
            continue
        origin: Any = get_origin(kind)
        default = defaults.get(name, "")
        shown = " ".join(default) if isinstance(default, list) else show(default).strip("'")
        parser.add_argument(
            flag.name,
            dest=name,
            metavar=flag.metavar,
            nargs="+" if origin is tuple else None,
            action="extend" if origin is tuple else "store",
            help=f"{flag.help} ({shown})" if shown else flag.help,
        )


def read_flags(options: argparse.Namespace, flags: Flags) -> dict[str, Any]:
    """The values of the flags that the command line has, by the settings' names."""
    given: dict[str, Any] = {}
    for name, (flag, kind) in flags.items():
        value = getattr(options, name)
        if value is True:
            value = "true"
        elif isinstance(value, list) and get_args(kind)[0] is not str:
            value = " ".join(value)
        if value not in (None, False):
            given[name] = Argument(value, flag.name) if isinstance(value, str) else value
    return given


@contextmanager
def exit_on_user_error() -> Iterator[None]:
    """Turn what a user can cause into one line and an exit status: the frame of every command.

    ValueError and OSError give 2, `WorkFailure` 1; Ctrl-C, where nothing needs saving, gives 130.
    Inside it, what is printed can fail without consequence: the exit status tells what became of
    the work.
    """
    with _unfailing_output():
        try:
            yield
        except (ValueError, OSError) as error:
            print(f"error: {one_line(error)}", file=sys.stderr)
            sys.exit(USER_ERROR)
        except WorkFailure as error:
            print(f"error: {one_line(error)}", file=sys.stderr)
            sys.exit(FAILED)
        except KeyboardInterrupt:
            print("stopped.", file=sys.stderr)
            # Under -m, Python up to its end remembers a Ctrl-C that fell into a string of code, as
            # every dataclass is made of one, and dies by the signal; the next string clears that.
            exec("")
            sys.exit(INTERRUPTED)


def print_result(text: str) -> None:
    """Print what a command has for its only result; unlike all else that is printed it must arrive.

    Raises:
        OSError: If it cannot be written.
        SystemExit: If its reader has gone, as `head` does: 141, without a line.
    """
    if not isinstance(sys.stdout, _UnfailingStream):
        print(text, flush=True)
    elif (error := sys.stdout.deliver(text + "\n")) is not None:
        if isinstance(error, BrokenPipeError):
            sys.exit(READER_GONE)
        raise error


def redraw_line(line: str) -> None:
    """Rewrite the terminal's last line, cut to its width."""
    columns = shutil.get_terminal_size().columns
    print(f"\r{line[: columns - 1]}\x1b[K", end="", file=sys.stderr, flush=True)


@contextmanager
def shown_meanwhile(line: str) -> Iterator[None]:
    """Show a line, on a terminal alone, for as long as something takes."""
    if not sys.stderr.isatty():
        yield
        return
    redraw_line(line)
    try:
        yield
    finally:
        redraw_line("")


class _UnfailingStream:
    """A text stream that goes nowhere from its first failure on.

    Such as a pipe whose reader has gone, a terminal that was closed, a full disk. What would wait
    for a terminal that was stopped (Ctrl-S), or for a reader that does not read, is left out.
    """

    def __init__(self, stream: TextIO | None) -> None:
        self._stream = stream or open(os.devnull, "w", encoding="utf-8")  # noqa: PTH123, SIM115
        self._stalled = False
        self.error: OSError | ValueError | None = None
        if stream is None:
            self.error = OSError(errno.EBADF, "the output is closed")
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # for what it cannot encode

    def write(self, text: str) -> int:
        with self._swallowing_errors():
            if self._is_ready():
                self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with self._swallowing_errors():
            if self._is_ready():
                self._stream.flush()

    def deliver(self, text: str) -> OSError | ValueError | None:
        """Write, for however long it takes; returns what went wrong, if anything did."""
        with self._swallowing_errors():
            self._stream.write(text)
            self._stream.flush()
        return self.error

    def _is_ready(self) -> bool:
        try:
            descriptor = self._stream.fileno()
        except io.UnsupportedOperation:
            return True  # it is in memory
        patience = 0.0 if self._stalled else _PATIENCE_SECONDS
        self._stalled = not select.select([], [descriptor], [], patience)[1]
        return not self._stalled

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    @contextmanager
    def _swallowing_errors(self) -> Iterator[None]:
        try:
            yield
        except (OSError, ValueError) as error:  # ValueError: it is closed
            self.error = self.error or error
            # What is left in the buffer goes nowhere, or the interpreter would complain at its end.
            with suppress(OSError, ValueError), open(os.devnull, "wb") as nowhere:  # noqa: PTH123
                os.dup2(nowhere.fileno(), self._stream.fileno())


@contextmanager
def _unfailing_output() -> Iterator[None]:
    # Where a standard stream was closed, the next file opened would get its number, and with it
    # what libraries print.
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= _STANDARD_ERROR:
        os.set_inheritable(descriptor, True)
    os.close(descriptor)
    streams: list[Any] = [_UnfailingStream(stream) for stream in (sys.stdout, sys.stderr)]
    with redirect_stdout(streams[0]), redirect_stderr(streams[1]):
        try:
            yield
        finally:
            for stream in streams:
                stream.flush()


def parse_path(text: str, name: str, kind: str = "a folder") -> Path:
    """The path that an argument names; `~` is the home folder, which no shell expands after `=`.

    Messages call the argument `name`, and say that it must name `kind`.

    Raises:
        ValueError: If it is empty or has characters that cannot be printed.
    """
    if not text.strip() or not text.isprintable():
        raise ValueError(f"{name} must name {kind}, got {text!r:.60}.")
    try:
        return Path(text).expanduser()
    except RuntimeError:
        raise ValueError(
            f"{name}: there is no home folder for {text!r:.60}; write it out."
        ) from None


def one_line(error: BaseException) -> str:
    """What an exception says, on one line."""
    text = str(error)
    if isinstance(error, OSError) and error.strerror:
        text = f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return printable(" ".join(text.split()) or type(error).__name__)


def printable(text: str) -> str:
    """A text, such as a file's name, with a question mark for what cannot be printed."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def align_columns(rows: Sequence[Sequence[str]], left: int) -> list[str]:
    """Pad the cells so that columns line up, two spaces apart; one line per row.

    So many columns are flush left; those behind them are flush right, as numbers are.
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.ljust(width) if place < left else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def format_seconds(seconds: float) -> str:
    """Seconds as people say them: "2 h 05 min", "3 min 20 s"."""
    if seconds == float("inf"):
        return "unknown time"
    whole = round(seconds)
    if whole >= 3600:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    if whole >= 60:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole} s"


def format_steps(steps: int) -> str:
    """A number of steps, short: "600", "12.3k", "1.235M"."""
    for multiple, letter in ((1_000_000_000, "G"), (1_000_000, "M"), (1_000, "k")):
        if steps >= multiple:
            return f"{steps / multiple:.4g}{letter}"
    return str(steps)
