"""Scripts as modules, for tests of what they are made of."""

import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

SCRIPTS = Path(__file__).parent.parent / "scripts"


@contextmanager
def loaded_script(name: str) -> Iterator[ModuleType]:
    """The file `name` of scripts/, imported as a module, whose main function is not called."""
    file = SCRIPTS / name
    spec = importlib.util.spec_from_file_location(f"{file.stem}_under_test", file)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look themselves up there
    try:
        spec.loader.exec_module(module)
        yield module
    finally:
        del sys.modules[spec.name]
