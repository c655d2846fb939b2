"""The pages that scripts/docs.sh makes: every public name is on one, with what it is for."""

import html
import re

import pytest
from loaded_scripts import loaded_script

pytest.importorskip("pdoc", reason="pip install 'rational-jax[docs]'")


def test_every_public_name_has_its_place_and_its_docstring(tmp_path):
    with loaded_script("docs.py") as docs:
        shown = docs.write(tmp_path)  # raises at a warning of pdoc's
    rooms = {name.partition(".")[2].partition(".")[0] for name in shown}
    assert rooms >= {
        "models",
        "hub",
        "checkpoint",
        "data",
        "sample",
        "judges",
        "curate",
        "train",
        "evaluate",
        "workflow",
    }
    for name, page in shown.items():
        text = (tmp_path / f"{name.replace('.', '/')}.html").read_text("utf-8")
        assert not re.search(r" at 0x[0-9a-f]{6}", text), f"the page of {name} shows where an object lies"
        public = getattr(page.obj, "__all__", [member for member in page.members if not member.startswith("_")])
        for member in public:
            assert page.get(member).docstring, f"{name}.{member} has no docstring"
            (part,) = re.findall(rf'<section id="{member}">.*?(?=<section id="|\Z)', text, re.S)
            first = html.escape(page.get(member).docstring.split()[0].strip("`.,:;"), quote=False)
            assert first in part, f"the page of {name} does not say what {member} is"
    for reference in ("index.html", "search.js"):
        assert (tmp_path / reference).stat().st_size > 0
