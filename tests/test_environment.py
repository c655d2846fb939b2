"""scripts/environment.sh on a virtual environment that is a stand-in: what it does before it installs."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent.parent / "scripts" / "environment.sh"
# Answers as a Python does; `pip` is there once a file of that name is, which `ensurepip` makes where it is allowed to.
PYTHON = """#!/bin/sh
here=$(dirname "$0")
case "$*" in
-*ensurepip*) [ -e "$here/may" ] && touch "$here/pip" || { echo "No module named ensurepip" >&2; exit 1; } ;;
"-m pip"*) [ -e "$here/pip" ] && echo "$*" >>"$here/pip" || { echo "No module named pip" >&2; exit 1; } ;;
"- "*) echo digest ;;
esac
"""

pytestmark = pytest.mark.skipif(shutil.which("bash") is None, reason="no bash")


@pytest.mark.parametrize("may", [True, False], ids=["mended", "refused"])
def test_an_environment_without_pip(may, tmp_path):
    """One whose making was stopped, or that uv made."""
    (tmp_path / "scripts").mkdir()
    shutil.copy(SCRIPT, tmp_path / "scripts")
    tools = tmp_path / ".venv" / "bin"
    tools.mkdir(parents=True)
    (tools / "python").write_text(PYTHON)
    (tools / "sleep").write_text("#!/bin/sh\n")
    for file in tools.iterdir():
        file.chmod(0o755)
    if may:
        (tools / "may").touch()
    ran = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", 'source "$1"; prepare_environment', "-", tmp_path / "scripts" / SCRIPT.name],
        env=os.environ | {"PATH": f"{tools}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
    )
    if may:
        assert ran.returncode == 0, ran.stdout + ran.stderr
        assert f"--editable {tmp_path}" in (tools / "pip").read_text()
    else:
        assert ran.returncode == 2
        assert ran.stderr.splitlines()[-1].startswith("error: ") and "delete .venv" in ran.stderr
    assert (tmp_path / ".venv" / "installed").exists() is may
