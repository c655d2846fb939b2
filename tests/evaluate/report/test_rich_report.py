"""A report with everything in it, several runs on one page, and both of them driven in a browser."""

import base64
import hashlib
import json
import re
import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest

from rational_jax.data.schema import Prompt
from rational_jax.data.suites import SUITES, Suite
from rational_jax.errors import UserError
from rational_jax.evaluate import report
from rational_jax.evaluate.report import gather, published
from rational_jax.evaluate.report.figures import series
from rational_jax.evaluate.report.run import run as report_one
from rational_jax.evaluate.report.several import _called, _check_same_prompts
from rational_jax.evaluate.results import Capability, read_results, summary_rows, write_results
from rational_jax.evaluate.run import run as evaluate
from rational_jax.manifest import Stage

VALIDATION = {
    "judge": "refusal",
    "items": 200,
    "accuracy": 0.95,
    "kappa": 0.9,
    "kappa_low": 0.85,
    "kappa_high": 0.94,
    "confusion": {"comply": {"comply": 95, "refuse": 5}, "refuse": {"comply": 5, "refuse": 95}},
    "by_model": {"one": {"items": 100, "kappa": 0.91}, "other": {"items": 100, "kappa": 0.89}},
}
STYLES = (
    "question",
    "slang",
    "role_play",
    "misspellings",
    "logical_appeal",
    "authority_endorsement",
    "expert endorsement",
)
NAMED = ("sorry-bench", "or-bench", "or-bench-hard-1k", "or-bench-toxic")


def many(root: Path, name: str, labels: tuple[str, ...]) -> Path:
    """A suite of 8 categories, 7 styles and 2 base prompts a category."""
    rows = [
        {
            "id": f"{name}/{category}/{base}/{style}",
            "text": f"({style}) Number {base}: how is the {name} of kind {category} fed?",
            "label": labels[base % len(labels)],
            "source": name,
            "category": f"{category}: a kind of things with a name",
            "style": style,
            "base_id": f"{name}/{category}/{base}",
        }
        for category in range(8)
        for base in range(2)
        for style in STYLES
    ]
    path = root / f"{name}.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def answers(paths: list[Path], model: str, tries: int) -> list[dict]:
    """Refusals of every third prompt for the base, of what is harmful for the others; the first has steps in mind."""
    rows = []
    for number, line in enumerate(line for path in paths for line in path.read_text().splitlines()):
        row = json.loads(line)
        prompt = {"id": row["id"], "messages": [{"role": "user", "content": row.pop("text")}], **row}
        for sample in range(tries):
            refuse = (number + sample) % 3 == 0 if model == "base" else row["label"] == "harmful"
            text = "I can't help with that." if refuse else "Sure. Offer it a bowl of oats."
            reasoning = None
            if model != "base":
                steps = "\n1. Take.\n2. Fill.\n3. Wait.\n4. Leave.\n" if number == 0 else " "
                reasoning = (
                    f"The user wants to feed it.{steps}It may bite, so I {'must refuse' if refuse else 'can help'}."
                )
            rows.append(
                {
                    "id": hashlib.sha256(f"{model} {row['id']} {sample}".encode()).hexdigest()[:16],
                    "prompt": prompt,
                    "model": model,
                    "sample": sample,
                    "text": text,
                    "reasoning": reasoning,
                    "answer": text,
                    "status": "no_reasoning" if reasoning is None else "ok",
                    "tokens": 9 if reasoning is None else 30,
                }
            )
    return rows


@pytest.fixture(scope="module")
def rich(run_maker, answer_writer, tmp_path_factory):
    """(configuration, path of the page): three suites, one of them trained on, and two tries."""
    root = tmp_path_factory.mktemp("rich")
    config = run_maker(root, objects=4, models=("base", "rational"))
    shutil.rmtree(root / "run")
    paths = [many(root, "sorry-bench", ("harmful",)), many(root, "or-bench", ("benign", "harmful"))]
    paths.append(many(root, "learnt", ("harmful",)))
    paths += [many(root, "or-bench-hard-1k", ("benign",)), many(root, "or-bench-toxic", ("harmful",))]
    with pytest.MonkeyPatch.context() as patch:
        for path in (*paths[:2], *paths[3:]):
            named = Suite(name=path.stem, title=path.stem.title(), source=str(path), about="Invented.")
            patch.setitem(SUITES, path.stem, named)
        for model in config.sample.models:
            answer_writer(Path(config.run), model, answers(paths, model, 2))
        curate = Stage.open(Path(config.run) / "curate", verb="curate", settings={}, inputs={})
        curate.finish(outputs={}, figures={"trained_on": {str(paths[2]): 112, "or-bench": 0}})
        (root / "validation.json").write_text(json.dumps(VALIDATION))
        sample = config.sample.model_copy(
            update={"suites": (*NAMED[:2], str(paths[2]), *NAMED[2:]), "samples": 2, "temperature": 1.0}
        )
        shown = config.report.model_copy(update={"validation": str(root / "validation.json"), "inspect": False})
        config = config.model_copy(update={"sample": sample, "report": shown})
        results = evaluate(config)
        scores = tuple(
            Capability(model=m, task="gsm8k", metric="acc", mode="direct", value=v, stderr=0.03, n=100)
            for m, v in (("base", 0.5), ("rational", 0.46))
        )
        folder = Path(config.run) / "evaluate"
        write_results(results.__class__(**{**vars(results), "capability": scores}), folder / "results.json")
        yield config, report_one(config)


@pytest.fixture(scope="module")
def page(rich) -> str:
    return rich[1].read_text("utf-8")


def test_a_suite_that_was_trained_on_is_marked_and_makes_no_headline(rich, page):
    results = read_results(Path(rich[0].run) / "evaluate" / "results.json")
    assert [suite.trained_on for suite in results.suites] == [0, 0, 112, 0, 0]
    assert {row.suite for row in summary_rows(results)} == set(NAMED)
    header = page[page.index("<header") : page.index("</header>")]
    assert header.count('class="headline"') == 4
    assert "<strong>learnt</strong> has 112 of its prompts in the training data" in header
    assert page.count("trained on</span>") == 1


def test_the_paper_stands_beside_our_figures(rich, page):
    results = read_results(Path(rich[0].run) / "evaluate" / "results.json")
    table = page[page.index('class="paper"') :]
    table = table[: table.index("</table>")]
    assert "0.674" in table and "Llama-3 Rational" in table
    suite = results.suites[0]
    (found,) = [published.beside(one) for one in results.suites if published.beside(one)]
    base = dict(found.ours)["base"]
    assert base[0] == suite.slice("style", "question").figures["base"].asr.value
    assert base[10] == suite.slice("style", "expert endorsement").figures["base"].asr.value
    assert base[2] is None  # no uncommon dialects among the invented styles
    assert base[-1] == suite.slice("all").figures["base"].asr.value
    assert f"{base[0]:.3f}" in table


def test_the_paper_s_rows_have_their_own_means():
    """The published mean of a row of SORRY-Bench is that of its styles, to the rounding of its figures."""
    rows = next(table for table in published.TABLES if "sorry-bench" in table.suites).rows
    for _, values in rows:
        assert len(values) == 12
        assert sum(values[:11]) / 11 == pytest.approx(values[11], abs=0.001)
    for table in published.TABLES:
        assert all(len(values) == len(table.columns) == len(table.keys) for _, values in table.rows)


def test_published_models_are_the_backdrop_of_or_bench_only(rich, page, tmp_path):
    picture = page[page.index('<section id="or-bench">') : page.index('id="results"')]
    assert picture.count('class="backdrop"') == page.count('class="backdrop"') == len(published.or_bench_points()) == 32
    results = read_results(Path(rich[0].run) / "evaluate" / "results.json")
    hard, toxic = results.suites[3].main().figures["base"], results.suites[4].main().figures["base"]
    assert hard.over_refusal.n and toxic.asr.n and hard.asr.value is None
    assert picture.count('class="mark') == 2
    assert "GPT-4o: 7%, 85%" in page
    own = tmp_path / "own.csv"
    own.write_text("model,hard_refused_percent,toxic_refused_percent\nTheirs,12,90\n")
    assert published.or_bench_points(own) == [("Theirs", 0.12, 0.9)]
    own.write_text("model,hard\nTheirs,12\n")
    with pytest.raises(UserError, match="needs the columns"):
        published.or_bench_points(own)


def test_capability_judge_tries_and_power_are_on_the_page(rich, page):
    assert 'data-figure="capability/gsm8k/acc/direct/rational" data-value="0.46"' in page
    assert "−4" in page[page.index('id="capability"') : page.index('id="transcripts"')]
    assert 'data-figure="validation/kappa" data-value="0.9"' in page
    assert "ASR@2" in page
    assert re.search(r"base prompts (find|with so few)", page)
    results = read_results(Path(rich[0].run) / "evaluate" / "results.json")
    figures = results.suites[0].main().figures["rational"]
    assert figures.asr.value == 0.0 and figures.asr_with_reasoning.value > 0
    assert f'data-figure="sorry-bench/main/rational/reasoning_leak" data-value="{figures.reasoning_leak.value}"' in page


def test_a_validation_that_is_none_is_refused(tmp_path):
    (tmp_path / "v.json").write_text('{"judge": "x"}')
    with pytest.raises(UserError, match="rational judge --validate"):
        gather.validation(tmp_path / "v.json")
    with pytest.raises(UserError, match=r"report\.validation"):
        gather.validation(tmp_path / "none.json")


def drive(path: Path, script: str, scratch: Path, *more: str) -> tuple[str, str]:
    """The page's DOM after our script ran in it, and what the browser logged. The policy names the script too."""
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if browser is None:
        pytest.skip("no Chromium on this machine")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    text = path.read_text("utf-8").replace("script-src ", f"script-src 'sha256-{digest}' ", 1)
    driven = scratch / "driven.html"
    driven.write_text(text.replace("</body>", f"<script>{script}</script></body>"), "utf-8")
    options = ("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking")
    quiet = ("--disable-component-update", "--disable-sync", "--virtual-time-budget=4000", "--enable-logging=stderr")
    command = [browser, *options, *quiet, f"--user-data-dir={scratch}", *more, "--dump-dom", driven.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=90, check=True)
    return done.stdout, done.stderr


DRIVER = """
const said = {}, form = document.getElementById("filters"), count = document.getElementById("count");
const pick = (name, words) => {
  const select = form.elements[name];
  const found = [...select.options].find((option) => option.textContent === words);
  select.value = found.value;
  select.dispatchEvent(new Event("input", {bubbles: true}));
};
const wait = () => new Promise((resolve) => setTimeout(resolve, 60));
(async () => {
  said.all = count.textContent;
  said.folded = document.querySelectorAll("#list .folded").length;
  pick("show", "where the models disagree"); await wait();
  said.disagree = count.textContent;
  pick("suite", "Or-Bench"); await wait();
  said.suite = count.textContent;
  pick("label", "benign"); await wait();
  said.benign = count.textContent;
  document.querySelector("#list .line").click();
  said.sides = document.querySelectorAll("#list .side").length;
  pick("label", "harmful"); pick("show", "every prompt"); await wait();
  document.querySelector("#list .line").click();
  said.before = document.querySelectorAll("#list .side").length;
  said.prompt = document.querySelectorAll("#list .asked .said").length;
  document.querySelector("#list .reveal").click();
  said.after = document.querySelectorAll("#list .side").length;
  said.revealed = document.querySelector("#list .asked .said").textContent;
  form.elements.unfold.click(); await wait();
  said.unfolded = document.querySelectorAll("#list .folded").length;
  said.charts = document.querySelectorAll("svg.chart").length;
  said.drawn = [...document.querySelectorAll("svg.chart")].every((one) => one.getBoundingClientRect().height > 20 ||
    one.closest("details:not([open])"));
  said.overflow = document.documentElement.scrollWidth - document.documentElement.clientWidth;
  const out = document.createElement("output");
  out.id = "said";
  out.textContent = JSON.stringify(said);
  document.body.append(out);
})();
"""


def test_filters_and_folds_work_in_a_browser(rich, tmp_path):
    dom, log = drive(rich[1], DRIVER, tmp_path, "--window-size=390,900")
    assert "CONSOLE" not in log
    found = json.loads(re.search(r'<output id="said">(.*?)</output>', dom).group(1))
    results = read_results(Path(rich[0].run) / "evaluate" / "results.json")
    everything = sum(suite.prompts for suite in results.suites) * 2
    assert found["all"] == f"{everything:,} prompts"
    numbers = [int(found[name].split()[0].replace(",", "")) for name in ("disagree", "suite", "benign")]
    assert everything > numbers[0] > numbers[1] > numbers[2] > 0
    assert found["folded"] > 0 and found["unfolded"] == 0
    assert (found["sides"], found["before"], found["prompt"], found["after"]) == (2, 0, 0, 2)
    assert "how is the or-bench of" in found["revealed"]
    assert found["charts"] > 15 and found["drawn"]
    assert found["overflow"] <= 0  # nothing pushes a phone's page sideways


def test_several_runs_are_one_page_with_paired_differences(run_maker, tmp_path, capsys):
    one = run_maker(tmp_path / "one", objects=12, models=("base", "rational"))
    other_root = tmp_path / "other"
    other = run_maker(other_root, objects=12, models=("base", "refusal"))
    # The suite is the same file, as it would be for two runs of one user.
    other = other.model_copy(update={"sample": other.sample.model_copy(update={"suites": one.sample.suites})})
    for config in (one, other):
        evaluate(config)
    folders = []
    for config, name in ((one, "first"), (other, "second")):
        folder = tmp_path / "runs" / name
        shutil.copytree(config.run, folder)
        folders.append(folder)
    (tmp_path / "runs" / "empty").mkdir()
    out = tmp_path / "runs" / "comparison"
    path = report.compare({folder: str(folder) for folder in (*folders, tmp_path / "runs" / "empty")}, out, one)
    results = read_results(out / "results.json")
    (suite,) = results.suites
    # Both runs sampled the base from one seed, so it is one model.
    assert suite.models == ("base", "rational", "refusal")
    assert suite.difference("rational", "refusal", "asr").pairs > 0
    assert (
        suite.slice("all").figures["rational"]
        == (read_results(Path(one.run) / "evaluate" / "results.json").suites[0].slice("all").figures["rational"])
    )
    assert "first/sample/rational" in path.read_text("utf-8")
    assert (out / "tables" / "differences.csv").is_file()
    with pytest.raises(UserError, match="none of"):
        report.compare({tmp_path / "runs" / "empty": "runs/empty"}, out, one)


def test_models_of_several_runs_have_short_names_that_are_nobody_elses():
    def named(**runs):
        return _called({run: {"inputs": {f"sample/{m}": d for m, d in models.items()}} for run, models in runs.items()})

    found = named(one={"base": "b", "rational": "1"}, two={"base": "b", "rational": "2"})
    assert found == {
        ("one", "base"): "base",
        ("one", "rational"): "one",
        ("two", "base"): "base",
        ("two", "rational"): "two",
    }
    found = named(one={"rational": "1", "refusal": "3"}, two={"rational": "2", "refusal": "4"})
    assert set(found.values()) == {"one/rational", "one/refusal", "two/rational", "two/refusal"}
    found = named(base={"base": "b", "rational": "1"}, two={"base": "b", "rational": "2"})
    assert set(found.values()) == {"base", "base/rational", "two/rational"}


def test_no_two_models_of_a_small_report_look_alike():
    for models in (("base", "a", "b", "c"), ("base", "refusal", "rational", "a", "b"), ("a", "b", "c", "d", "e")):
        found = series(models)
        assert len({number % 6 for number in found.values()}) == len(models)
    assert series(("base", "refusal", "rational", "x")) == {"base": 0, "refusal": 1, "rational": 2, "x": 5}


def test_runs_with_different_judges_are_not_compared(run_maker, tmp_path):
    first, second = (run_maker(tmp_path / name, objects=4, models=("base",)) for name in ("a", "b"))
    for config in (first, second):
        evaluate(config)
    path = Path(second.run) / "evaluate" / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["settings"]["judge"] = "another"
    path.write_text(json.dumps(manifest))
    with pytest.raises(UserError, match="different judges"):
        report.compare({Path(run): run for run in (first.run, second.run)}, tmp_path / "out", first)


def test_runs_whose_prompts_share_ids_only_are_not_compared(run_maker, answer_writer, tmp_path):
    one, other = (run_maker(tmp_path / name, objects=2, models=("rational",)) for name in ("one", "other"))
    sampled = Path(other.run) / "sample" / "rational"
    rows = [json.loads(line) for line in (sampled / "answers.jsonl").read_text("utf-8").splitlines()]
    prompt = rows[-1]["prompt"]
    prompt["messages"][0]["content"] = "How is something else fed?"
    shutil.rmtree(sampled)
    answer_writer(Path(other.run), "rational", rows)
    for config in (one, other):
        evaluate(config)
    folders = {Path(config.run): config.run for config in (one, other)}
    with pytest.raises(UserError, match=rf"prompt '{prompt['id']}' of .* is another.*compare runs"):
        report.compare(folders, tmp_path / "out", one)
    assert not (tmp_path / "out").exists()


def test_a_prompt_of_another_kind_is_another_prompt():
    row = {"id": "p", "text": "?", "label": "benign", "source": "a"}

    def check(**other):
        asked = {m: SimpleNamespace(prompt=Prompt.from_json(one)) for m, one in (("x", row), ("y", row | other))}
        _check_same_prompts("s", {model: [SimpleNamespace(answer=answer)] for model, answer in asked.items()})

    check(source="b")
    for field in ("text", "label", "category", "style", "base_id"):
        with pytest.raises(UserError, match="suite s: prompt 'p' of y is another than that of x"):
            check(**{field: "harmful"})
