"""A digest of what code does, which comments and docstrings do not change."""

import ast
import hashlib
from pathlib import Path

_DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def code_digest(folder: Path) -> str:
    """Return a SHA-256 digest, in hex, of the Python code in a folder.

    Comments, docstrings, formatting and the folder's own path do not count.
    """
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*.py")):
        name = path.relative_to(folder).as_posix()
        digest.update(f"{name}\n{_semantics(path.read_text())}\n".encode())
    return digest.hexdigest()


def _semantics(source: str) -> str:
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, _DOCUMENTED) and ast.get_docstring(node, clean=False) is not None:
            node.body = node.body[1:]
    return ast.dump(tree)
