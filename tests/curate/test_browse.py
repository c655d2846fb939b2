"""The page of what was curated: all of it is there, filters work, and hostile text in it does nothing."""

import json
import re
import shutil
import subprocess

import pytest

from rational_jax.curate import Funnel, write_dataset
from rational_jax.curate.browse import browse
from rational_jax.data.schema import Prompt, Rationale
from rational_jax.errors import UserError
from rational_jax.manifest import Stage
from rational_jax.storage import write_rows
from rational_jax.text.chat import Message

HOSTILE = (
    "</script><script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\"> "
    "\x1b[31mred \u202eesrever\u202c"
)
DATA = re.compile(r'<script type="application/json" id="samples-data">(.*?)</script>', re.DOTALL)


def prompt(number, text="How do I open a gate?"):
    return Prompt(
        id=f"p{number}",
        messages=(Message(role="user", content=text),),
        label="benign" if number % 2 else "harmful",
        category=f"c{number % 3}",
        style="plain",
        source="test",
    )


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A curated run of 4 kept and 6 rejected samples."""
    run = tmp_path_factory.mktemp("browse")
    settings = {"model": {"name": "micro"}, "curate": {"recipe": "rational-plus", "datasets": ["rational"]}}
    stage = Stage.open(run / "curate", verb="curate", settings=settings, inputs={})
    funnel = Funnel(
        prompts=10, samples=10, rejected={"format": 2, "label": 4}, kept=4, covered=4, labels={}, premises=None
    )
    kept = [
        Rationale(id=f"p{i}#0", prompt=prompt(i), reasoning=f"{HOSTILE} because {i}", answer="Sure.", recipe="r")
        for i in range(4)
    ]
    write_dataset(run / "curate" / "rational", "rational", kept, "r", funnel)
    (run / "curate" / "funnel.json").write_text(json.dumps(funnel.to_json()))
    rejected = [
        {
            "id": f"p{i}#0",
            "prompt": prompt(i, HOSTILE).to_json(),
            "sample": 0,
            "reason": "format" if i < 6 else "label",
            "detail": HOSTILE,
            "verdict": "refusal",
            "reasoning": None,
            "answer": "",
            "text": HOSTILE,
        }
        for i in range(4, 10)
    ]
    write_rows(run / "curate" / "rejected.jsonl", rejected)
    stage.finish(outputs={}, figures={})
    return run


def rows(page):
    return json.loads(DATA.findall(page)[0])["rows"]


def test_every_sample_is_there_with_its_reason_and_inert(run):
    page = browse(run).read_text("utf-8")
    found = rows(page)
    assert [(row[0], row[7]) for row in found[:5]] == [(f"p{i}", "kept") for i in range(4)] + [("p4", "format")]
    assert len(found) == 10 and [row[7] for row in found].count("label") == 4
    assert "<" not in DATA.findall(page)[0] and "\x1b" not in page and "\u202e" not in page
    assert "document.title" not in DATA.sub("", page) and "innerHTML" not in page
    assert "default-src 'none'" in page and not re.search(r"https?:|\son\w+=", DATA.sub("", page))
    assert "Every sample of the run" in page
    assert browse(run).read_text("utf-8") == page


def test_a_page_of_a_part_says_so(run):
    page = browse(run, most=2).read_text("utf-8")
    assert [row[0] for row in rows(page)] == ["p0", "p2", "p4", "p7"]
    assert "2 of 4 kept and 2 of 6 rejected samples" in page
    with pytest.raises(UserError, match="at least 1"):
        browse(run, most=0)


def test_nothing_curated(tmp_path):
    with pytest.raises(UserError, match="run `rational curate` first"):
        browse(tmp_path)


def test_in_a_browser_filters_choose_and_hostile_text_does_nothing(run, tmp_path):
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if browser is None:
        pytest.skip("no Chromium on this machine")
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
    options += ["--disable-component-update", "--disable-sync", f"--user-data-dir={tmp_path}", "--dump-dom"]
    address = f"{browse(run).as_uri()}#reason=label"
    command = [browser, *options, "--virtual-time-budget=3000", "--enable-logging=stderr", address]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert "CONSOLE" not in done.stderr
    assert "<title>What was curated</title>" in done.stdout
    seen = done.stdout[done.stdout.index('id="list"') : done.stdout.index('id="more"')]
    assert seen.count('class="sample"') == 4 and "chip kept" not in seen
    assert "&lt;script&gt;document.title='owned'&lt;/script&gt;" in seen and "<img" not in seen
    assert "⟨ESC⟩[31mred ⟨RLO⟩esrever⟨PDF⟩" in seen
    # What was written for prompts labelled harmful is folded: of p6 to p9, two are.
    assert seen.count("Show what was written") == 2
