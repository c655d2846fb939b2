"""`rational judge`: validation against people, judging of files from anywhere, resuming, and failing aloud."""

import csv
import json

import fsspec
import pytest

from rational_jax.cli import app
from rational_jax.errors import UserError
from rational_jax.judges import judge_file, load_judge
from rational_jax.judges.labelled import read_answers, read_labelled
from rational_jax.judges.refusal import RefusalJudge
from rational_jax.judges.verdict import Verdict
from rational_jax.progress import SILENT

SORRY, TEA = "I'm sorry, but I can't help with that.", "Tea is a drink. Boil some water."


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return path


def write_csv(path, rows):
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def rows_of(path):
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def test_validation_prints_the_json_that_the_report_reads(tmp_path, capsys):
    labels = {SORRY: "2_full_refusal", TEA: "1_full_compliance"}
    for model in ("one", "two"):
        rows = [
            {"id": f"v2-{i}", "type": "x", "prompt": f"p{i}", "completion": text, "final_label": labels[text]}
            for i, text in enumerate([SORRY, TEA] * 10)
        ]
        if model == "two":
            rows[0]["final_label"] = "1_full_compliance"
        write_csv(tmp_path / f"completions_{model}.csv", rows)
    assert app.run(["judge", "--validate", str(tmp_path), "--format", "xstest", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["items"], found["accuracy"], found["worst_model"]) == (40, 39 / 40, "completions_two")
    # One of 40 apart: observed .975, expected .475 * .5 + .525 * .5 = .5.
    assert found["kappa"] == pytest.approx(0.95)
    assert found["kappa_low"] < found["kappa"] < found["kappa_high"] <= 1
    assert found["confusion"] == {"compliance": {"compliance": 20, "refusal": 1}, "refusal": {"refusal": 19}}
    assert found["by_model"]["completions_one"]["kappa"] == 1.0
    from rational_jax.evaluate.report.gather import validation

    (tmp_path / "kappa.json").write_text(json.dumps(found))
    assert validation(tmp_path / "kappa.json").items == 40
    assert app.run(["judge", "--validate", str(tmp_path), "--format", "xstest"]) == 0
    out = capsys.readouterr().out
    assert "0.950 [" in out and "worst model: completions_two" in out


@pytest.mark.parametrize(
    ("form", "row"),
    [
        ("jbb", {"goal": "g", "prompt": "wrapped g", "target_response": SORRY, "human_majority": "0"}),
        ("gptfuzz", {"question": "80", "Response": SORRY, "label": "0"}),
        ("columns=answer:said,label:is,goal:about", {"said": SORRY, "is": "harmless", "about": "g"}),
    ],
)
def test_formats(tmp_path, form, row):
    (found,) = read_labelled(write_csv(tmp_path / "a.csv", [row]), form)
    assert (found.exchange.answer, found.label) == (SORRY, "harmless")
    assert found.exchange.goal == ("" if form == "gptfuzz" else "g")
    assert found.cluster == ("80" if form == "gptfuzz" else "g")


def test_what_cannot_be_read_is_named(tmp_path):
    path = write_csv(tmp_path / "a.csv", [{"answer": SORRY, "label": "maybe"}])
    with pytest.raises(UserError, match=r"a\.csv:1: the label 'maybe' is not known"):
        read_labelled(path)
    with pytest.raises(UserError, match=r"has no answer \(reply\); its columns: answer, label"):
        read_labelled(write_csv(path, [{"answer": SORRY, "label": "0"}]), "columns=answer:reply")
    for form in ("xsest", "columns=anwser:x", "columns=answer"):
        with pytest.raises(UserError, match="choose from xstest"):
            read_labelled(path, form)


def test_answers_from_anywhere(tmp_path, capsys):
    rows = [
        {"instruction": "About tea?", "output": TEA, "model": "m"},
        {"prompt": "wrapped: tea", "goal": "tea", "response": f"<think>hm</think>\n\n{SORRY}"},
        {"question": "tea?", "answer": "<think>I could say"},
        {"prompt": "tea?", "answer": "?!"},
    ]
    path = write(tmp_path / "a.jsonl", rows)
    assert app.run(["judge", str(path)]) == 0
    out = capsys.readouterr().out
    assert "coverage 50.0% of 4 answers" in out and "truncated_reasoning" in out
    judged = rows_of(tmp_path / "a.judgements.jsonl")
    assert [(row["row"], row["label"]) for row in judged] == [(1, "compliance"), (2, "refusal"), (4, "unscored")]
    # The judge is given the plain goal; both stand in the log.
    assert (judged[1]["goal"], judged[1]["asked"]) == ("tea", "wrapped: tea")


def test_our_own_answers_keep_their_goal_and_their_status(tmp_path):
    prompt = {
        "id": "p",
        "messages": [{"role": "user", "content": "d3JhcA=="}],
        "label": "harmful",
        "meta": {"goal": "plain", "subcategory": "s"},
    }
    row = {"id": "x", "prompt": prompt, "model": "base", "answer": TEA, "status": "ok"}
    statuses = ("truncated_reasoning", "content_filter")
    path = write(tmp_path / "a.jsonl", [row, *(row | {"answer": "", "status": status} for status in statuses)])
    one, *others = read_answers(path)
    assert (one.exchange.goal, one.asked, one.exchange.label, one.model) == ("plain", "d3JhcA==", "harmful", "base")
    assert (one.unfinished, *(other.unfinished for other in others)) == ("", *statuses)


class Failing(RefusalJudge):
    """Scores `lives` answers, and then no more."""

    lives = 3

    def judge_all(self, exchanges):
        for number, (name, verdict) in enumerate(super().judge_all(exchanges)):
            down = Verdict(label="unscored", reason="the judge failed: it is down", failed=True)
            yield name, verdict if number < self.lives else down


def test_a_judge_that_fails_half_way_leaves_a_log_and_an_exit_status_and_can_be_resumed(tmp_path, monkeypatch, capsys):
    path = write(tmp_path / "a.jsonl", [{"prompt": f"tea {i}?", "answer": TEA} for i in range(8)])
    monkeypatch.setattr("rational_jax.judges.load_judge", lambda *_: Failing())
    assert app.run(["judge", str(path)]) == 2
    said = capsys.readouterr()
    assert "coverage 37.5% of 8 answers" in said.out and "5 unscored: the judge failed: it is down" in said.out
    assert "failed on 5 answers" in said.err
    log = tmp_path / "a.judgements.jsonl"
    assert [row["label"] for row in rows_of(log)] == ["compliance"] * 3 + ["unscored"] * 5
    asked = []
    real = RefusalJudge.judge_all
    monkeypatch.setattr(RefusalJudge, "judge_all", lambda self, e: asked.extend(e) or real(self, e))
    summary = judge_file(path, RefusalJudge(), SILENT)
    assert len(asked) == 5 and (summary["coverage"], summary["failed"]) == (1.0, 0)
    whole = write(tmp_path / "b.jsonl", rows_of(path))
    judge_file(whole, RefusalJudge(), SILENT)
    assert log.read_bytes() == (tmp_path / "b.judgements.jsonl").read_bytes()


def test_judges_share_a_log_and_neither_is_asked_twice(tmp_path, monkeypatch):
    path = write(tmp_path / "a.jsonl", [{"prompt": "tea?", "answer": TEA}, {"prompt": "no?", "answer": SORRY}])
    for name in ("refusal", "refusal-rules", "refusal"):
        judge_file(path, load_judge(name))
    log = rows_of(tmp_path / "a.judgements.jsonl")
    assert len(log) == 4 and len({row["judge"] for row in log}) == 2
    monkeypatch.setattr(RefusalJudge, "judge_all", lambda *_: pytest.fail("asked again"))
    judge_file(path, load_judge("refusal-rules"))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "give a file of answers, or --validate FILE"),
        (["nowhere.jsonl"], "no such file"),
        (["a.jsonl", "--judge", "guard"], "evaluate.judge_model.name"),
        (["--validate", "a.jsonl", "--judge", "gaurd"], "choose from refusal"),
    ],
)
def test_what_is_missing_is_said_in_one_line(capsys, words, said):
    assert app.run(["judge", *words]) == 2
    error = capsys.readouterr().err.strip().splitlines()
    assert said in error[-1] and error[-1].startswith("error: ")


def test_help_has_examples(capsys):
    assert app.run(["judge", "--help"]) == 0
    assert "rational judge --validate" in capsys.readouterr().out


def test_twenty_thousand_answers_are_a_matter_of_seconds(tmp_path):
    import time

    path = write(tmp_path / "a.jsonl", [{"prompt": f"p{i}", "answer": (TEA, SORRY)[i % 2] * 8} for i in range(20_000)])
    begun = time.process_time()
    assert judge_file(path, RefusalJudge())["coverage"] == 1.0
    assert time.process_time() - begun < 15


def test_answers_in_a_bucket_are_judged_here(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("RATIONAL_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    rows = [{"prompt": "Tea?", "answer": text} for text in (SORRY, TEA)]
    fsspec.filesystem("memory").pipe_file("/bucket/said.jsonl", "".join(json.dumps(r) + "\n" for r in rows).encode())
    assert app.run(["judge", "memory://bucket/said.jsonl", "--judge", "refusal-rules"]) == 0
    (log,) = tmp_path.glob("said-*.judgements.jsonl")
    assert [row["label"] for row in rows_of(log)] == ["refusal", "compliance"]
    labelled = [row | {"label": label} for row, label in zip(rows, ("refusal", "compliance"), strict=True)]
    fsspec.filesystem("memory").pipe_file("/bucket/l.jsonl", "".join(json.dumps(r) + "\n" for r in labelled).encode())
    capsys.readouterr()
    assert app.run(["judge", "--validate", "memory://bucket/l.jsonl", "--judge", "refusal-rules", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["accuracy"] == 1.0
