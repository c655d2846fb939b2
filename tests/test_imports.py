"""The house: who may import whom, how long files are, and what is not imported at the door."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import rational_jax

PACKAGE = Path(rational_jax.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))
NAMES = [file.relative_to(PACKAGE).as_posix() for file in FILES]

GROUND = {"config", "errors", "html", "manifest", "parallel", "progress", "storage", "stores", "text"}
# Room -> what it may import besides the ground floor and itself. The order is that of the picture, from the ground up.
ROOMS = {
    "models": set(),
    "hub": {"models"},
    "checkpoint": {"models", "hub"},
    "data": set(),
    "sample": {"models", "hub", "checkpoint", "data"},
    "judges": {"sample"},
    "curate": {"models", "hub", "data", "sample", "judges"},
    "train": {"models", "hub", "checkpoint", "data", "sample"},
    "evaluate": {"data", "sample", "judges"},
    "workflow": {"models", "hub", "checkpoint", "data", "sample", "judges", "curate", "train", "evaluate"},
    "cli": {"curate", "train", "evaluate", "judges", "sample", "workflow"},
}
# Slow to import or not installed everywhere: only where they are used, inside the function that uses them.
NEVER_AT_IMPORT = {"torch", "tensorflow", "peft", "vllm"}
MOST_LINES = 400


def room_of(file: Path) -> str:
    """The first part of the path below the package: a room, or a file of the ground floor."""
    return file.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported(tree: ast.AST) -> set[str]:
    """Full names of what is imported anywhere below: modules, and what is taken from them."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: imports are absolute here"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def at_import(body: list[ast.stmt]) -> set[str]:
    """What is imported when the module is, so not inside functions and not for type checkers only."""
    names = set()
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            names |= at_import(node.orelse)
        elif inner := [s for name in ("body", "orelse", "finalbody") for s in getattr(node, name, [])]:
            handlers = [s for handler in getattr(node, "handlers", []) for s in handler.body]
            names |= at_import(inner + handlers)
        else:
            names |= imported(node)
    return names


def rooms_imported(tree: ast.AST) -> set[str]:
    parts = (name.split(".") for name in imported(tree))
    return {p[1] for p in parts if p[0] == "rational_jax" and len(p) > 1} - {"__version__"}


def test_every_file_is_in_a_room():
    assert {room_of(file) for file in FILES} - {"__init__"} <= GROUND | ROOMS.keys()
    assert "utils" not in {part.removesuffix(".py") for name in NAMES for part in name.split("/")}


@pytest.mark.parametrize("file", FILES, ids=NAMES)
def test_imports_run_up_the_table(file):
    room = room_of(file)
    allowed = GROUND | ({room} | ROOMS[room] if room in ROOMS else set())
    forbidden = rooms_imported(ast.parse(file.read_text("utf-8"))) - allowed
    assert not forbidden, f"{room} may not import {', '.join(sorted(forbidden))}"


@pytest.mark.parametrize("file", FILES, ids=NAMES)
def test_optional_and_heavy_libraries_are_imported_where_they_are_used(file):
    names = {name.split(".")[0] for name in at_import(ast.parse(file.read_text("utf-8")).body)}
    assert not names & NEVER_AT_IMPORT


@pytest.mark.parametrize("file", FILES, ids=NAMES)
def test_files_stay_readable(file):
    assert len(file.read_text("utf-8").splitlines()) <= MOST_LINES


def test_the_rules_can_fail():
    tree = ast.parse("if TYPE_CHECKING:\n    import torch\ntry:\n    import peft.x\nexcept ImportError:\n    pass\n")
    assert at_import(tree.body) == {"peft.x"}
    tree = ast.parse("def f():\n    import torch\nclass C:\n    from tensorflow import keras\n")
    assert at_import(tree.body) == {"tensorflow.keras"}
    assert rooms_imported(
        ast.parse("def f():\n    from rational_jax import hub\nimport rational_jax.train.loop\n")
    ) == {
        "hub",
        "train",
    }


@pytest.mark.parametrize(
    "module", ["rational_jax", "rational_jax.cli.app", "rational_jax.config", "rational_jax.manifest"]
)
def test_the_door_opens_at_once(module):
    code = (
        f"import sys, {module}; print(*sorted({{'jax', 'torch', 'tensorflow', 'transformers'}} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
