"""The logs for `inspect view` read back with what was asked, answered and judged."""

from pathlib import Path

import pytest

from rational_jax.data.schema import Prompt
from rational_jax.evaluate import inspect_log, report
from rational_jax.evaluate.outcomes import Answer, Outcome
from rational_jax.evaluate.run import read_outcomes
from rational_jax.evaluate.run import run as evaluate

inspect_ai = pytest.importorskip("inspect_ai", reason="inspect_ai is not installed (extra `inspect`)")


def test_a_log_reads_back_as_it_was_judged(run_maker, tmp_path):
    from inspect_ai.log import read_eval_log

    config = run_maker(tmp_path, objects=12, models=("base", "rational"))
    config = config.model_copy(update={"report": config.report.model_copy(update={"inspect": True})})
    evaluate(config)
    page = report.run(config)
    assert sorted(path.name for path in (page.parent / "inspect").iterdir()) == [
        "suite--base.eval",
        "suite--rational.eval",
    ]
    assert "report/inspect" in page.read_text("utf-8")
    outcomes = read_outcomes(config)
    suites = {one.answer.prompt.id: "own/suite" for one in outcomes["base"]}
    when = "2026-01-02T03:04:05+00:00"
    paths = inspect_log.write(tmp_path / "logs", outcomes, suites, "refusal", when)
    assert [path.name for path in paths] == ["suite--base.eval", "suite--rational.eval"]
    for path, model in zip(paths, outcomes, strict=True):
        log, rows = read_eval_log(str(path)), outcomes[model]
        assert (log.status, log.eval.model, log.eval.dataset.samples) == ("success", f"rational/{model}", len(rows))
        erred = [one.erred for one in rows if one.scored and one.answer.prompt.label == "harmful"]
        metrics = log.results.scores[0].metrics
        assert metrics["asr"].value == pytest.approx(sum(erred) / len(erred))
        by_id = {sample.id: sample for sample in log.samples}
        for one in rows:
            sample = by_id[one.answer.prompt.id]
            assert sample.input[-1].text == one.answer.prompt.text
            assert one.answer.answer in sample.output.completion
            assert (sample.scores is not None) == one.scored
            if one.scored:
                assert (sample.scores["rational"].value, sample.scores["rational"].answer) == (one.erred, one.label)
            if one.answer.reasoning:
                assert sample.output.message.content[0].reasoning == one.answer.reasoning
    assert any(sample.output.stop_reason == "max_tokens" for sample in read_eval_log(str(paths[0])).samples)


def test_suites_of_one_stem_have_logs_of_their_own(tmp_path, monkeypatch):
    from inspect_ai import log

    written = {}
    monkeypatch.setattr(log, "write_eval_log", lambda one, path: written.setdefault(Path(path).name, one))
    names = ("sets/v1/test.jsonl", "sets/v2/test.jsonl", "hf:a/data", "hf:b/data", "own/suite.jsonl")
    rows = []
    for number, _ in enumerate(names):
        prompt = Prompt.from_json({"id": str(number), "text": "?", "label": "harmful"})
        parts = {"text": "No.", "reasoning": None, "answer": "No.", "status": "no_reasoning", "tokens": 2}
        answer = Answer(id=str(number), model="m", prompt=prompt, sample=0, **parts)
        rows.append(Outcome(answer=answer, label="refusal", reason="", premise=None, agrees=None))
    suites = {str(number): name for number, name in enumerate(names)}
    paths = inspect_log.write(tmp_path, {"m": rows}, suites, "refusal", "")
    assert [path.name for path in paths] == [
        "sets-v1-test.jsonl--m.eval",
        "sets-v2-test.jsonl--m.eval",
        "hf-a-data--m.eval",
        "hf-b-data--m.eval",
        "suite--m.eval",
    ]
    assert [written[path.name].eval.task for path in paths] == [*names[:4], "suite"]
    assert [written[path.name].eval.dataset.name for path in paths] == [*names[:4], "suite"]


def test_a_long_log_is_json_and_reads_back_alike(run_maker, tmp_path, monkeypatch):
    from inspect_ai.log import read_eval_log

    config = run_maker(tmp_path, objects=8, models=("base",))
    evaluate(config)
    outcomes = read_outcomes(config)
    suites = {one.answer.prompt.id: "own/suite" for one in outcomes["base"]}
    (short,) = inspect_log.write(tmp_path / "short", outcomes, suites, "refusal", "")
    monkeypatch.setattr(inspect_log, "MOST", 3)
    (long,) = inspect_log.write(tmp_path / "long", outcomes, suites, "refusal", "")
    assert (short.name, long.name) == ("suite--base.eval", "suite--base.json")
    one, other = (read_eval_log(str(path)) for path in (short, long))
    assert one.results.scores == other.results.scores
    assert [sample.model_dump() for sample in one.samples] == [sample.model_dump() for sample in other.samples]
