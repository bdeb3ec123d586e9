"""Which version of the source a run was trained by, as far as it can matter to what is learned."""

import ast
import hashlib
from functools import cache
from pathlib import Path

from configs.settings import load_preset

_ROOT = Path(__file__).parent.parent
_ROOMS = ("envs", "policies", "agents/algorithms")  # the others change no result


@cache
def hash_source() -> str:
    """The SHA-256 of the source that decides what an agent learns, its first 12 digits.

    Comments, docstrings and layout do not count. Python versions may write the same source
    differently and so give another hash.
    """
    digest = hashlib.sha256(repr(load_preset("protocols")).encode())
    for path in sorted(path for room in _ROOMS for path in (_ROOT / room).rglob("*.py")):
        digest.update(path.relative_to(_ROOT).as_posix().encode() + b"\0")
        digest.update(strip_comments(path.read_text(encoding="utf-8")).encode() + b"\0")
    return digest.hexdigest()[:12]


def strip_comments(source: str) -> str:
    """Python source without comments and docstrings, in one layout."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
            and ast.get_docstring(node, clean=False) is not None
        ):
            node.body = node.body[1:] or [ast.Pass()]
    return ast.unparse(tree)
