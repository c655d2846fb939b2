"""The page: its numbers are those of results.json, model text in it is inert, and it needs no network."""

import html
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from rational_jax.errors import UserError
from rational_jax.evaluate.report import run as report
from rational_jax.evaluate.results import read_results
from rational_jax.evaluate.run import run as evaluate

DATA = re.compile(r'<script type="application/json" id="transcripts-data">(.*?)</script>', re.DOTALL)


@pytest.fixture(scope="module")
def made(run_maker, tmp_path_factory):
    """(configuration, path of the page) of one evaluated and reported run."""
    config = run_maker(tmp_path_factory.mktemp("report"))
    evaluate(config)
    return config, report(config)


@pytest.fixture(scope="module")
def page(made) -> str:
    return made[1].read_text("utf-8")


def test_every_number_in_the_tables_is_the_one_in_results_json(made, page):
    results = read_results(Path(made[0].run) / "evaluate" / "results.json")
    (suite,) = results.suites
    shown = dict(re.findall(r'data-figure="([^"]*)" data-value="([^"]*)"', page))
    shown = {html.unescape(key).removeprefix(f"{suite.name}/"): value for key, value in shown.items()}
    for model, figures in suite.main().figures.items():
        for metric in ("asr", "over_refusal", "mean_error", "premise_accuracy", "with_reasoning"):
            value = getattr(figures, metric).value
            assert shown[f"main/{model}/{metric}"] == ("" if value is None else str(value))
    for part in suite.parts("tier"):
        for model, figures in part.figures.items():
            assert shown[f"tier/{part.name}/{model}/asr"] == str(figures.asr.value)
    for one in suite.differences:
        assert shown[f"difference/{one.first}/{one.second}/{one.metric}"] == str(one.value)


def test_the_page_tells_the_finding_of_its_numbers(made, page):
    results = read_results(Path(made[0].run) / "evaluate" / "results.json")
    figures = results.suites[0].main().figures["rational"]
    assert f"{100 * figures.mean_error.value:.0f}%" in re.search(r'class="headline">(.*?)</p>', page).group(1)
    assert made[0].report.title in page
    for section in ("Transcripts", "Failures", "Paired differences", "Training loss over reasoning tokens", "Curation"):
        assert section in page
    assert page.count("<svg") > 10
    funnel = json.loads((Path(made[0].run) / "curate" / "funnel.json").read_text())
    assert f"{funnel['kept']:,} for {funnel['covered']:,} of {funnel['prompts']:,} prompts" in page
    assert "after “label”" in page and "after “short”" not in page


def test_no_address_outside_the_page_and_no_inline_handler(page):
    markup = DATA.sub("", page)
    assert not re.search(r"https?:|//[a-z]|@import|url\(", markup, re.IGNORECASE)
    assert not re.search(r"<(link|iframe|object|embed|img|base)\b|\son\w+=|\sstyle=|javascript:", markup, re.IGNORECASE)
    assert "innerHTML" not in markup
    assert "default-src 'none'" in markup


def test_hostile_answers_are_inert_text(page):
    assert "document.title" not in DATA.sub("", page)
    (embedded,) = DATA.findall(page)
    assert "<" not in embedded
    assert "\x1b" not in embedded and "\u202e" not in embedded and "\u200b" not in embedded
    assert "⟨ESC⟩[31mred" in embedded and "⟨RLO⟩esrever" in embedded
    data = json.loads(embedded)
    answers = [cell[3] for row in data["rows"] for cell in row[-1]]
    assert any("</script><img src=x onerror=" in answer for answer in answers)


def test_transcripts_are_all_there_with_their_outcomes(made, page):
    data = json.loads(DATA.findall(page)[0])
    assert data["models"] == list(made[0].sample.models)
    path = Path(made[0].run) / "sample" / "rational" / "answers.jsonl"
    answers = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    assert len(data["rows"]) == len(answers)
    place = data["models"].index("rational")
    for row, answer in zip(data["rows"], answers, strict=True):
        cell = row[-1][place]
        assert (row[0], row[1], cell[2], cell[3]) == (
            answer["prompt"]["id"],
            answer["prompt"]["label"],
            answer["reasoning"],
            answer["answer"],
        )
        assert data["labels"][cell[0]] == answer["status"] or answer["status"] == "ok"


def test_failures_are_listed(made, page):
    results = read_results(Path(made[0].run) / "evaluate" / "results.json")
    lost = sum(f.coverage.answers - f.coverage.scored for f in results.suites[0].slice("all").figures.values())
    ledger = page[page.index('id="failures"') : page.index('id="run"')]
    assert f"{lost} answers" in ledger
    assert "the answer is empty" in ledger and "the token limit came first" in ledger


def test_writing_again_changes_nothing(made):
    config, path = made
    before = path.read_bytes()
    assert report(config) == path
    assert path.read_bytes() == before


def test_without_training_and_curation_their_sections_are_left_out(run_maker, tmp_path):
    config = run_maker(tmp_path, objects=12, models=("base",))
    shutil.rmtree(Path(config.run) / "curate")
    evaluate(config)
    text = report(config).read_text("utf-8")
    assert 'id="making"' not in text
    assert "The base model has a mean error of" in text


def test_the_report_is_of_what_was_evaluated_whatever_the_configuration_says_now(run_maker, tmp_path):
    config = run_maker(tmp_path, objects=4, models=("base",))
    judged = config.model_copy(update={"evaluate": config.evaluate.model_copy(update={"judge": "refusal-rules"})})
    evaluate(judged)
    asked = report(judged).read_text("utf-8")
    sample = config.sample.model_copy(update={"suites": ("micro",), "limit": 3, "models": ("base", "rational")})
    plain = report(config.model_copy(update={"sample": sample})).read_text("utf-8")
    before, after = (json.loads(DATA.findall(text)[0]) for text in (asked, plain))
    assert before == after and after["models"] == ["base"] and len(after["rows"]) == 8


def test_answers_that_came_after_the_evaluation_are_not_joined_with_its_verdicts(run_maker, answer_writer, tmp_path):
    config = run_maker(tmp_path, objects=2, models=("base",))
    evaluate(config)
    folder = Path(config.run) / "sample" / "base"
    rows = [json.loads(line) for line in (folder / "answers.jsonl").read_text("utf-8").splitlines()]
    shutil.rmtree(folder)
    answer_writer(Path(config.run), "base", [row | {"answer": "Something else."} for row in rows])
    with pytest.raises(UserError, match=r"sampled after it was evaluated: delete .*evaluate"):
        report(config)


def test_a_run_that_was_not_evaluated_is_refused(run_maker, tmp_path):
    with pytest.raises(UserError, match="rational evaluate"):
        report(run_maker(tmp_path, objects=2))


def test_without_inspect_its_logs_cannot_be_had(made, monkeypatch):
    monkeypatch.setattr("rational_jax.evaluate.inspect_log.available", lambda: False)
    config = made[0].model_copy(update={"report": made[0].report.model_copy(update={"inspect": True})})
    with pytest.raises(UserError, match=r"rational-jax\[inspect\]"):
        report(config)


def _chromium() -> str:
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if found is None:
        pytest.skip("no Chromium on this machine")
    return found


def test_in_a_browser_the_list_fills_and_hostile_text_does_nothing(made, tmp_path):
    browser, (config, path) = _chromium(), made
    rows = json.loads(DATA.findall(path.read_text("utf-8"))[0])["rows"]
    hostile = next(row for row in rows if any("onerror" in cell[3] for cell in row[-1]))
    done = subprocess.run(
        [
            browser,
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            f"--user-data-dir={tmp_path}",
            "--virtual-time-budget=3000",
            "--enable-logging=stderr",
            "--dump-dom",
            f"{path.as_uri()}#prompt={hostile[0].replace(' ', '%20')}",
        ],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert "CONSOLE" not in done.stderr
    assert f"<title>{config.report.title}</title>" in done.stdout
    seen = done.stdout[done.stdout.index('id="list"') : done.stdout.index('id="more"')]
    assert seen.count('class="item') == 1
    assert seen.count('class="side"') == len(config.sample.models)
    assert "&lt;script&gt;document.title='owned'&lt;/script&gt;" in seen
    assert "**bold** [a link](http://example.invalid/) ⟨ESC⟩[31mred⟨ESC⟩[0m ⟨RLO⟩esrever⟨PDF⟩" in seen
    assert "<img" not in seen
