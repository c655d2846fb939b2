import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def test_ruff_finds_nothing():
    pytest.importorskip("ruff")
    found = subprocess.run(
        [sys.executable, "-m", "ruff", "check", "--no-cache", "."], cwd=ROOT, capture_output=True, text=True
    )
    assert found.returncode == 0, found.stdout + found.stderr


@pytest.mark.parametrize("script", sorted(p.name for p in (ROOT / "scripts").glob("*.sh")))
def test_scripts_parse(script):
    if shutil.which("bash") is None:
        pytest.skip("no bash")
    subprocess.run(["bash", "-n", ROOT / "scripts" / script], check=True)


def test_no_path_of_one_machine_is_in_the_project():
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=False)
    if tracked.returncode != 0:
        pytest.skip("not a git checkout")
    # Written in two parts, since this file is one of those that are read.
    homes = ("/" + "home/", "/" + "Users/", "/" + "work/")
    texts = (".py", ".sh", ".toml", ".yaml", ".md", ".txt", ".html", ".js", ".css")
    for name in tracked.stdout.decode().split("\0"):
        if name.endswith(texts) and (ROOT / name).is_file():
            text = (ROOT / name).read_text("utf-8")
            assert not [home for home in homes if home in text], name
