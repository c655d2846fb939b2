"""The verb `evaluate`: files, resuming, refusing, and figures that are what the answers say."""

import csv
import json
from pathlib import Path

import pytest

from rational_jax.cli.summary import print_summary
from rational_jax.data.suites import SUITES, Headline, Suite, find_suite, load_suite, load_suites
from rational_jax.errors import UserError
from rational_jax.evaluate import report
from rational_jax.evaluate.results import Estimate, mark, percent, read_results, summary_rows, with_interval
from rational_jax.evaluate.run import read_outcomes, run
from rational_jax.judges import RefusalJudge, Verdict
from rational_jax.sample import Completion
from rational_jax.storage import sha256_tree


def folder(config) -> Path:
    return Path(config.run) / "evaluate"


def rows(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def test_results_are_what_the_answers_say(config):
    results = run(config)
    (suite,) = results.suites
    for model in config.sample.models:
        answers = rows(Path(config.run) / "sample" / model / "answers.jsonl")
        judged = {
            row["answer"]: row["label"] for row in rows(folder(config) / "judgements.jsonl") if row["model"] == model
        }
        labels = [judged.get(row["id"]) for row in answers if row["prompt"]["label"] == "harmful"]
        scored = [label for label in labels if label in ("compliance", "partial", "refusal")]
        figures = suite.slice("all").figures[model]
        assert figures.asr.value == scored.count("compliance") / len(scored)
        assert figures.coverage.answers == len(answers)
        truncated = sum(row["status"] == "truncated_reasoning" for row in answers)
        assert figures.coverage.truncated_reasoning == truncated
    base = suite.slice("all").figures["base"].coverage
    assert (base.unscored, base.truncated_answer) == (1, 1)
    assert suite.slice("tier", "one-hop").figures["rational"].with_reasoning.value == 1.0
    assert suite.slice("wrapper", "unseen").figures["base"].asr.n > 0
    assert suite.slice("sensitive", "plain").figures["base"].asr.n == 0


def test_results_read_back_equal_and_hold_no_date_and_no_path(config, tmp_path):
    results = run(config)
    path = folder(config) / "results.json"
    assert read_results(path) == results
    text = path.read_text("utf-8").replace(config.sample.suites[0], "")
    assert str(tmp_path) not in text
    assert "created" not in text


def test_two_runs_leave_equal_bytes(config, run_maker, tmp_path):
    run(config)
    before = sha256_tree(folder(config), ignore=("manifest.json", ".*"))
    twin = run_maker(tmp_path / "twin").model_copy(update={"sample": config.sample})
    run(twin)
    assert sha256_tree(folder(twin), ignore=("manifest.json", ".*")) == before
    assert {"results.json", "judgements.jsonl", "tables/summary.csv", "tables/failures.csv"} <= set(before)


class Interrupted(Exception):
    pass


def count_calls(monkeypatch, stop_after: int | None = None) -> list[str]:
    calls, real = [], RefusalJudge.judge_all

    def judge_all(self, exchanges):
        for exchange, found in zip(exchanges, real(self, exchanges), strict=True):
            if stop_after is not None and len(calls) == stop_after:
                raise Interrupted
            calls.append(exchange.answer)
            yield found

    monkeypatch.setattr(RefusalJudge, "judge_all", judge_all)
    return calls


@pytest.mark.parametrize("torn", [b"", b'{"model": "base", "ans'])
def test_judging_continues_where_it_was_stopped(config, run_maker, tmp_path, monkeypatch, torn):
    with monkeypatch.context() as patch:
        count_calls(patch, stop_after=50)
        with pytest.raises(Interrupted):
            run(config)
    log = folder(config) / "judgements.jsonl"
    assert len(rows(log)) == 50
    with log.open("ab") as file:
        file.write(torn)
    calls = count_calls(monkeypatch)
    run(config)
    finished = sum(row["status"] in ("ok", "no_reasoning") for m in config.sample.models for row in sampled(config, m))
    assert len(calls) == finished - 50
    twin = run_maker(tmp_path / "twin").model_copy(update={"sample": config.sample})
    run(twin)
    for name in ("results.json", "judgements.jsonl"):
        assert (folder(twin) / name).read_bytes() == (folder(config) / name).read_bytes()


def sampled(config, model: str) -> list[dict]:
    return rows(Path(config.run) / "sample" / model / "answers.jsonl")


def test_finished_work_is_not_judged_again(config, monkeypatch):
    first = run(config)
    calls = count_calls(monkeypatch)
    assert run(config) == first
    assert calls == []


def test_a_judge_that_fails_half_way_leaves_figures_and_a_log_and_says_so(config, monkeypatch):
    real = RefusalJudge.judge_all

    def failing(self, exchanges):
        down = Verdict(label="unscored", reason="the judge failed: it is down", failed=True)
        for number, (name, verdict) in enumerate(real(self, exchanges)):
            yield name, verdict if number < 60 else down

    with monkeypatch.context() as patch:
        patch.setattr(RefusalJudge, "judge_all", failing)
        with pytest.raises(UserError, match=r"answers are scored \(coverage .*it is down.*rerun to go on"):
            run(config)
    log = rows(folder(config) / "judgements.jsonl")
    assert sum(row["label"] == "unscored" and row.get("failed", False) for row in log) == len(log) - 60
    assert read_results(folder(config) / "results.json").suites
    calls = count_calls(monkeypatch)
    results = run(config)
    assert len(calls) == len(log) - 60
    assert not any(row.get("failed") for row in rows(folder(config) / "judgements.jsonl"))
    assert results.suites[0].slice("all").figures["base"].coverage.unscored == 1


def test_what_is_unscored_is_asked_again_where_that_is_wanted(config, monkeypatch):
    real = RefusalJudge.judge_all

    def rejecting(self, exchanges):
        for number, (name, verdict) in enumerate(real(self, exchanges)):
            yield name, verdict if number != 5 else Verdict(label="unscored", reason="rejected")

    with monkeypatch.context() as patch:
        patch.setattr(RefusalJudge, "judge_all", rejecting)
        first = run(config)  # finished: one row less is no failure
    calls = count_calls(monkeypatch)
    assert run(config) == first and calls == []
    again = run(config, retry_unscored=True)
    assert len(calls) == 2  # and the one that has no words, which has no score the second time either
    coverage = [one.suites[0].slice("all").figures["base"].coverage.unscored for one in (first, again)]
    assert coverage == [2, 1]
    assert run(config) == again and len(calls) == 2


def test_a_judge_of_harm_is_asked_about_harmful_prompts_only(config, monkeypatch):
    asked = []

    class Yes:
        def generate(self, requests):
            for request in requests:
                asked.append(request.messages[0].content)
                yield Completion(id=request.id, text="VERDICT: 1", token_ids=(), finish="stop", prompt_tokens=1)

    monkeypatch.setattr("rational_jax.sample.open_backend", lambda *_: Yes())
    model = config.evaluate.judge_model.model_copy(update={"name": "judge", "endpoint": "http://x/v1"})
    section = config.evaluate.model_copy(update={"judge": "fulfilment", "judge_model": model})
    results = run(config.model_copy(update={"evaluate": section}))
    figures = results.suites[0].slice("all").figures["rational"]
    assert figures.asr.value == 1.0 and figures.asr.n and figures.over_refusal.value < 1.0
    log = rows(folder(config) / "judgements.jsonl")
    scored = [row for row in log if row.get("score") == 1.0]
    assert len(scored) == len(asked) and all(row["label"] == "compliance" and row["text"] for row in scored)
    assert results.judge == "fulfilment" and read_outcomes(config.model_copy(update={"evaluate": section}))


@pytest.mark.parametrize(
    ("name", "says", "mean", "fives"),
    [
        ("hex-phi", ("SCORE: 5", "SCORE: 2"), 3.5, 0.5),
        ("strongreject", ("REFUSED: 0 CONVINCING: 5 SPECIFIC: 5", "REFUSED: 1 CONVINCING: 1 SPECIFIC: 1"), 0.5, None),
    ],
)
def test_marks_of_a_judge_are_in_the_tables_and_on_the_page(config, monkeypatch, capsys, name, says, mean, fives):
    class Marks:
        def generate(self, requests):
            for place, request in enumerate(requests):
                yield Completion(id=request.id, text=says[place % 2], token_ids=(), finish="stop", prompt_tokens=1)

    monkeypatch.setattr("rational_jax.sample.open_backend", lambda *_: Marks())
    model = config.evaluate.judge_model.model_copy(update={"name": "judge", "endpoint": "http://x/v1"})
    section = config.evaluate.model_copy(update={"judge": name, "judge_model": model})
    marked = config.model_copy(update={"evaluate": section})
    results = run(marked)
    figures = results.suites[0].slice("all").figures["rational"]
    assert figures.mean_score.value == pytest.approx(mean, abs=0.1)  # a score is missing where an answer was cut off
    assert figures.mean_score.low < figures.mean_score.value < figures.mean_score.high
    assert figures.full_marks.n == (figures.mean_score.n if fives else 0)
    with (folder(config) / "tables" / "summary.csv").open(newline="") as file:
        found = {(row["model"], row["metric"]): row for row in csv.DictReader(file)}
    shown = next(row.mean_score for row in summary_rows(results) if row.model == "rational")
    assert found["rational", "mean_score"]["value"] == str(shown.value) and found["rational", "mean_score"]["low"]
    assert (("rational", "full_marks") in found) == (fives is not None)
    print_summary(results)
    printed = capsys.readouterr().out
    assert "mean score" in printed and mark(shown) in printed
    page = report.run(marked).read_text("utf-8")
    assert f'data-value="{shown.value}"' in page and ("share of 5s</th>" in page) == (fives is not None)


def test_another_judge_is_refused_by_name(config, monkeypatch):
    run(config)
    monkeypatch.setattr("rational_jax.judges.refusal._REVISION", 99)
    with pytest.raises(UserError, match="judge"):
        run(config)


def test_other_settings_are_refused_by_name(config):
    run(config)
    other = config.model_copy(update={"evaluate": config.evaluate.model_copy(update={"bootstrap": 500})})
    with pytest.raises(UserError, match=r"evaluate\.bootstrap: 400 -> 500"):
        run(other)


def test_a_model_that_was_not_sampled_is_named(run_maker, tmp_path):
    config = run_maker(tmp_path, models=("base",))
    more = config.model_copy(update={"sample": config.sample.model_copy(update={"models": ("base", "rational")})})
    with pytest.raises(UserError, match="rational sample"):
        run(more)


def test_answers_that_were_changed_by_hand_are_refused(config):
    path = Path(config.run) / "sample" / "base" / "answers.jsonl"
    path.write_text(path.read_text("utf-8").replace("oats", "hay"), "utf-8")
    with pytest.raises(UserError, match=r"answers\.jsonl is not the file"):
        run(config)


def test_a_suite_that_has_grown_since_is_refused(config):
    path = Path(config.sample.suites[0])
    path.write_text(path.read_text("utf-8") + json.dumps({"id": "new", "text": "?"}) + "\n", "utf-8")
    with pytest.raises(UserError, match="no answer to 1 prompts"):
        run(config)


def test_headline_is_the_suite_s_own_part(config, monkeypatch):
    suite = Suite(
        name="own",
        title="Own",
        source=config.sample.suites[0],
        about="",
        headline=Headline(words="two hops", tiers=("two-hop-new",)),
        tiers=("two-hop-new", "one-hop"),
    )
    monkeypatch.setitem(SUITES, "own", suite)
    results = run(config.model_copy(update={"sample": config.sample.model_copy(update={"suites": ("own",)})}))
    (found,) = results.suites
    assert found.main().by == "headline"
    assert found.main().figures == found.slice("tier", "two-hop-new").figures
    assert [part.name for part in found.parts("tier")] == ["two-hop-new", "one-hop", "two-hop-seen"]
    (row, *_) = summary_rows(results)
    assert row.asr == found.main().figures["base"].asr
    assert found.difference("rational", "base", "asr").slice == "headline"


def test_tables_hold_the_same_numbers(config):
    results = run(config)
    with (folder(config) / "tables" / "summary.csv").open(newline="") as file:
        table = {(row["model"], row["metric"]): row for row in csv.DictReader(file)}
    for row in summary_rows(results):
        assert float(table[row.model, "asr"]["value"]) == row.asr.value
        assert float(table[row.model, "mean_error"]["high"]) == row.mean_error.high
    with (folder(config) / "tables" / "failures.csv").open(newline="") as file:
        failures = list(csv.DictReader(file))
    coverage = [suite.slice("all").figures for suite in results.suites]
    assert len(failures) == sum(
        f.coverage.answers - f.coverage.scored for figures in coverage for f in figures.values()
    )


def test_summary_reads_well():
    some = Estimate(value=0.213, low=0.141, high=0.3, n=9, clusters=9)
    none = Estimate(value=None, low=None, high=None, n=0, clusters=0)
    assert with_interval(some) == "21% [14–30]"
    assert with_interval(none) == "–"
    assert (percent(0.0), percent(0.004), percent(0.996), percent(1.0)) == ("0%", "0.4%", "99.6%", "100%")


def test_the_packaged_suite_loads_and_its_headline_is_there():
    suite = find_suite("micro")
    prompts = load_suite("micro")
    assert {prompt.label for prompt in prompts} == {"harmful", "benign"}
    assert any(suite.headline.holds(prompt) for prompt in prompts)
    assert {prompt.category for prompt in prompts} == set(suite.tiers)
    assert all(prompt.meta["premise"] and prompt.base_id for prompt in prompts)
    assert len(load_suite("micro", limit=3)) == 3


def test_an_unknown_suite_and_shared_ids_are_refused(tmp_path):
    with pytest.raises(UserError, match="there is no suite 'sorry'"):
        load_suite("sorry")
    for name in ("a", "b"):
        (tmp_path / f"{name}.jsonl").write_text(json.dumps({"id": "same", "text": "?"}) + "\n")
    with pytest.raises(UserError, match="both have a prompt with the id 'same'"):
        load_suites([str(tmp_path / "a.jsonl"), str(tmp_path / "b.jsonl")])
