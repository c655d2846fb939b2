"""Pages of the package's public names, made by pdoc from their docstrings; scripts/docs.sh calls this.

    python scripts/docs.py FOLDER

A room's public face is its `__all__`, so each room is one page and not one a file. A warning of pdoc's is an error.
"""

import ast
import importlib
import inspect
import pkgutil
import sys
import typing
import warnings
from itertools import pairwise
from pathlib import Path

import pdoc

import rational_jax
from rational_jax.config import Section

_ONE_FILE = tuple(f"rational_jax.{name}" for name in ("errors", "manifest", "progress", "storage", "stores"))
_ROOM_OF_FILES = "rational_jax.workflow"  # each of its files is a way in


def pages() -> dict[str, pdoc.doc.Module]:
    """The pages by the name of their module, with the docstrings of constants where they are made."""
    names = ["rational_jax", *(found.name for found in pkgutil.walk_packages(rational_jax.__path__, "rational_jax."))]
    shown = {}
    for name in names:
        file_of_room = name in _ONE_FILE or _ROOM_OF_FILES in (name, name.rpartition(".")[0])
        if name.startswith("rational_jax.cli"):
            continue
        module = importlib.import_module(name)
        if name == "rational_jax" or file_of_room or hasattr(module, "__all__"):
            shown[name] = pdoc.doc.Module(module)
    for name, page in shown.items():
        for variable in page.variables:
            variable.docstring = variable.docstring or said_of(name, variable.name)
        for found in page.classes:
            if issubclass(found.obj, tuple) and hasattr(found.obj, "_fields"):
                # Those of a named tuple are texts, which pdoc would read where the name is shown, not where it is made.
                found.obj.__new__.__annotations__ = typing.get_type_hints(found.obj)
            if issubclass(found.obj, Section):
                kinds = typing.get_type_hints(found.obj)  # without the conditions, which pdoc would print as objects
                for key in found.instance_variables:
                    key.annotation = kinds.get(key.name, key.annotation)
    return shown


def said_of(module: str, name: str) -> str:
    """The docstring behind a constant, also behind several in one line, in the file that makes it; "" without one."""
    body = ast.parse(inspect.getsource(importlib.import_module(module))).body
    for node in body:
        if isinstance(node, ast.ImportFrom):
            for alias in node.names:
                if name == (alias.asname or alias.name):
                    return said_of(node.module, alias.name)
    for node, text in pairwise(body):
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        named = {part.id for target in targets if target for part in ast.walk(target) if isinstance(part, ast.Name)}
        if name in named and isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant):
            return inspect.cleandoc(text.value.value)
    return ""


def write(directory: Path) -> dict[str, pdoc.doc.Module]:
    """Writes all pages, the index and what its search needs, and returns what is on the pages."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # those of libraries, when they are imported
        shown = pages()
    pdoc.render.configure(show_source=False)
    texts = {}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for name, page in shown.items():
            texts[f"{name.replace('.', '/')}.html"] = pdoc.render.html_module(page, shown)
        texts |= {"index.html": pdoc.render.html_index(shown), "search.js": pdoc.render.search_index(shown)}
    for file, text in texts.items():
        (directory / file).parent.mkdir(parents=True, exist_ok=True)
        (directory / file).write_text(text, "utf-8")
    return shown


if __name__ == "__main__":
    target = Path(sys.argv[1])
    print(f"{len(write(target))} pages; begin with {target / 'index.html'}")
