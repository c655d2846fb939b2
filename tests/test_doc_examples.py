"""Every example in the documents and in --help: parsed by what would run it, and run where that takes seconds.

Commands see a folder with what a reader has there: the repository's files, and files of their own under the names that
the documents use. Words in capitals stand for something; what for is said here.
"""

import glob
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import pytest
import typer
from doc_examples import DOCUMENTS, ROOT, SHELL, Example, commands, examples, help_examples

from rational_jax.cli import app
from rational_jax.cli.session import configuration
from rational_jax.config import RunConfig, load_config
from rational_jax.curate.recipes import load_recipe
from rational_jax.data import BENCHMARKS, attacks
from rational_jax.data.benchmarks import ALIASES
from rational_jax.data.sources import prompt_file
from rational_jax.errors import UserError
from rational_jax.judges.load import NAMES, SUITES

REPOSITORY = ("configs", "scripts", "tests", "tpu", "rational_jax", "README.md", "constraints.txt")
PROMPTS = '{"prompt": "How do I keep a door from squeaking?", "label": "benign"}\n'
ANSWERS = '{"prompt": "How do I open a door?", "answer": "Turn the handle and push."}\n'
# What a reader brings along, by the name that it has in the documents.
THEIRS = {
    "my.yaml": (ROOT / "configs" / "ci.yaml").read_text("utf-8").replace("runs/ci", "runs/llama"),
    "my_configuration.yaml": "seed: 1\n",
    "my_policies.yaml": "default: Help, unless somebody is hurt.\ncategories: []\n",
    **dict.fromkeys(("prompts.jsonl", "my_prompts.jsonl", "my-prompts.jsonl", "mine.jsonl", "test.jsonl"), PROMPTS),
    "answers.jsonl": ANSWERS,
    "copies/harmbench.csv": "Behavior,FunctionalCategory,BehaviorID\n",
    "labelled.csv": "reply,human\nI will not.,refusal\nTurn the handle.,compliance\n",
    "xstest_v2_completions_mistralinstruct.csv": "",
    "my-model/config.json": "{}",
    ".venv/bin/activate": "",  # scripts/environment.sh makes it
}
PLACEHOLDERS = {
    "CONFIG": "my.yaml",
    "FILE": "my.yaml",
    "MODEL": "micro",
    "MODEL_DIR": "my-model",
    "RUN": "runs/llama",
    "ORG/MODEL": "someone/model",
    "VERB": "train",
    "KEY=VALUE": "seed=1",
}
VERBS = {command.callback.__name__: command.callback for command in app.app.registered_commands}
SECTIONS = [name for name, field in RunConfig.model_fields.items() if hasattr(field.annotation, "model_fields")]
# How often a block has a line that cannot run here, and so is held back by a mark that says why.
MARKED = {"README.md": {"lm_eval", "vllm"}, "tpu/README.md": {"kubectl"}}
# Programs whose words nothing here can check beyond that they are called; `hf` and `gcloud` stand in the text alone.
TOLD = {"tensorboard", "kill", "inspect", "hf", "gcloud"}
# They need nothing but a second or two each, and so are run as they stand.
RUN_NOW = ("evaluate --power", "judge answers.jsonl", "train --print-config", "publish --help")

ALL = [found for document in DOCUMENTS for found in examples(document)]
HELP = [help_examples("VERB", app.app.info.help), *(help_examples(name, verb.__doc__) for name, verb in VERBS.items())]
BLOCKS = [found for found in (*ALL, *HELP) if found.language in SHELL]
INLINE = [found for found in ALL if found.language == "inline"]
COMMANDS = [
    *((found, words) for found in BLOCKS for words in commands(found.text)),
    *(
        (found, [word for word in words if word != "..."])
        for found in INLINE
        if re.match(r"(rational|pip|python|pytest|bash|hf|inspect|kill) \S|(tpu/)?\w+\.sh( |$)", found.text)
        for words in commands(found.text)
    ),
]


def standing(here: Path) -> Path:
    """Makes a folder the one in which a reader stands: with the repository's files, and their own."""
    for name in REPOSITORY:
        if name == "tpu":  # its settings are written there
            shutil.copytree(ROOT / name, here / name, ignore=shutil.ignore_patterns("settings.env"))
        else:
            (here / name).symlink_to(ROOT / name)
    for name, text in THEIRS.items():
        (here / name).parent.mkdir(parents=True, exist_ok=True)
        (here / name).write_text(text, "utf-8")
    return here


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    here = standing(tmp_path_factory.mktemp("reader"))
    (here / "runs" / "one").mkdir(parents=True)
    return here


@pytest.fixture
def reader(folder, monkeypatch) -> Path:
    monkeypatch.chdir(folder)
    return folder


def meant(words: list[str]) -> list[str]:
    """The words with what the placeholders stand for, and what a shell makes of a `*`."""
    found = []
    for word in words:
        before, equals, after = word.rpartition("=")
        word = PLACEHOLDERS.get(word) or before + equals + PLACEHOLDERS.get(after, after)
        word = re.sub(r"(?<==)N$", "2", word)
        found += sorted(glob.glob(word)) or [word] if "*" in word else [word]
    return found


def parsed(words: list[str]) -> None:
    """What `rational WORDS` would begin with: its options, its configuration, and the names and files in that."""
    group = typer.main.get_command(app.app)
    context = group.make_context("rational", [*words], resilient_parsing=False)
    rest = [*context._protected_args, *context.args]
    name, verb, rest = group.resolve_command(context, rest)
    options = verb.make_context(name, rest, parent=context).params
    settings = options.get("words") or ()
    if name == "report":
        settings = [word for word in settings if not Path(word).is_dir() and "://" not in word]
    checked(configuration(settings))
    for file in (options.get("answers"), options.get("validate")):
        # runs/ is what the command before it leaves.
        there = file is None or Path(file).parts[0] == "runs" or Path(file).is_file()
        assert there, f"{file}: the documents name no such file"


def checked(config: RunConfig) -> None:
    """Raises UserError for a name in a configuration that nothing here knows; a file that is missing counts."""
    for source in (*config.curate.prompts, *config.sample.suites):
        name, _, path = (source if isinstance(source, str) else source.source).partition("@")
        if ALIASES.get(name, name) in BENCHMARKS:
            assert not path or Path(path).exists()
        elif not name.startswith(("hf:", "tfds:")) and name != "micro":
            prompt_file(name)
    load_recipe(config.curate.recipe, config.model.name, config.curate.policies)
    for attack in config.sample.attacks:
        attacks.check(attack)
    assert {*config.evaluate.judge.split(",")} <= {*NAMES, SUITES}


@pytest.mark.parametrize(("example", "words"), COMMANDS, ids=[f"{e.place}-{' '.join(w)[:40]}" for e, w in COMMANDS])
def test_a_command_is_one(example: Example, words: list[str], reader):
    program, *rest = words = meant(words)
    if program in example.unrun or program in TOLD:
        return
    if program.endswith(".sh"):  # in a table of tpu/README.md without its folder
        program, rest = "bash", [program if "/" in program else f"tpu/{program}", *rest]
    match program:
        case "rational":
            if rest not in (["--help"], ["VERB", "--help"]):
                parsed([word for word in rest if word != "--help"])
        case "bash":
            assert Path(rest[0]).is_file()
            subprocess.run(["bash", "-n", rest[0]], check=True)
        case "python" | "pytest":
            files = [word for word in rest if word.endswith(".py")]
            assert files and all(Path(file).is_file() for file in files)
        case "pip":
            extras = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"]
            for extra in re.findall(r"rational_jax\[([\w,-]+)\]", " ".join(rest)):
                assert {*extra.split(",")} <= extras.keys()
        case "cp":
            shutil.copy(*rest)
        case "source" | "envsubst":
            assert Path(rest[-1]).is_file()
        case _:
            assert program == "set", f"{example.place}: nobody says what {program} is, and no mark why it is not run"


@pytest.mark.parametrize("example", [e for e in ALL if e.language == "yaml"], ids=lambda e: e.place)
def test_settings_are_a_configuration(example, reader):
    Path("shown.yaml").write_text(example.text, "utf-8")
    checked(load_config("shown.yaml"))


@pytest.mark.parametrize("document", DOCUMENTS)
def test_what_the_text_names_is_there(document):
    """Keys of the configuration with the values that are given, files of the repository, and links."""
    text = (ROOT / document).read_text("utf-8")
    for found in (found for found in INLINE if found.document == document):
        if re.match(rf"({'|'.join(SECTIONS)})\.\w+(=|$)", found.text) and not found.text.endswith(".py"):
            words = [word if "=" in word else f"{word}=" for word in found.text.split()]
            for key, _, value in (word.partition("=") for word in words):
                try:
                    load_config(None, [f"{key}={value.replace('N', '2')}" if value else f"{key}=~"])
                except UserError as error:
                    assert value == "" and "unknown key" not in str(error), f"{found.place}: {error}"
        elif re.fullmatch(r"[\w./-]+\.(py|sh)|(configs|scripts|tests|tpu)/[\w./-]+", found.text):
            named = [ROOT / found.text, *ROOT.glob(f"rational_jax/**/{found.text}"), ROOT / "tpu" / found.text]
            assert any(path.exists() for path in named), f"{found.place}: there is no {found.text}"
    for link in re.findall(r"\]\((?!https?:)([^)#]+)", text):
        assert ((ROOT / document).parent / link).exists(), f"{document}: the link {link} leads nowhere"


def test_what_cannot_run_is_marked_and_counted():
    marked = {document: set() for document in DOCUMENTS}
    for found in ALL:
        assert found.unrun.keys() <= {words[0] for words in commands(found.text)}, f"{found.place}: no such line"
        marked[found.document] |= found.unrun.keys()
    assert {document: names for document, names in marked.items() if names} == MARKED
    assert all(len(reason) > 10 for found in ALL for reason in found.unrun.values())


def test_every_verb_has_examples_and_stands_in_the_readme():
    shown = {words[1] for _, words in COMMANDS if words[0] == "rational"}
    assert VERBS.keys() <= shown
    assert all(list(commands(found.text)) for found in HELP)
    named = {words[1] for found, words in COMMANDS if words[0] == "rational" and found.document == "README.md"}
    assert VERBS.keys() == named & VERBS.keys()


def test_the_table_of_prompt_sets_is_the_one_in_force():
    text = (ROOT / "README.md").read_text("utf-8").partition("| name | prompts | from |")[2].partition("\n\n")[0]
    named = re.findall(r"`([^`]+)`", "\n".join(line.split("|")[1] for line in text.strip().split("\n")[1:]))
    assert sorted(named) == sorted(BENCHMARKS)


@pytest.mark.parametrize(
    "words",
    [words for _, words in COMMANDS if words[0] == "rational" and " ".join(words[1:]).startswith(RUN_NOW)],
    ids=" ".join,
)
def test_what_takes_seconds_is_run(words, reader, capsys):
    words = [word for word in meant(words)[1:] if not word.startswith("evaluate.judge_model")]
    if "strongreject" in words:
        pytest.skip("its judge is somebody's server; tests/judges has one")
    assert app.run(words) == 0
    assert capsys.readouterr().out


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash")
@pytest.mark.parametrize(
    "line",
    dict.fromkeys(
        shlex.join(words)
        for found, words in COMMANDS
        if found.document.startswith(("tpu/", "README"))
        and ((words[0] == "bash" and words[1].startswith("tpu/")) or words[0].endswith(".sh"))
    ),
)
def test_a_script_for_tpus_shows_its_calls(line, reader, tmp_path):
    """With --dry-run, where a `gcloud` is on PATH that writes down what it is asked: nothing is."""
    if not (ROOT / ".git").exists():
        pytest.skip("prepare.sh packs the checkout's last commit, and this is none")
    words = meant(shlex.split(line))
    script, *rest = words[1:] if words[0] == "bash" else words
    gcloud = tmp_path / "gcloud"
    stand_in = ROOT / "tests" / "tpu" / "gcloud_stand_in.py"
    gcloud.write_text(f'#!/bin/sh\nexec "{sys.executable}" -S -E "{stand_in}" "$@"\n')
    gcloud.chmod(0o755)
    (tmp_path / "plan.json").write_text("[]")
    if script.endswith(("launch.sh", "resume.sh")) and not [word for word in rest if not word.startswith("-")]:
        rest += ["train", "my.yaml"]
    found = subprocess.run(
        ["bash", ROOT / "tpu" / Path(script).name, "--dry-run", "--settings", "tpu/settings.env.example", *rest],
        env=os.environ | {"GCLOUD_STAND_IN": str(tmp_path), "PATH": f"{tmp_path}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
    )
    assert found.returncode == 0, found.stderr
    assert "gcloud compute tpus" in found.stdout + found.stderr and not (tmp_path / "calls.jsonl").exists()


class Reader:
    """Somebody who types what the README says, in a folder of their own."""

    def __init__(self, here: Path):
        self.here = standing(here)
        self.environment = os.environ | {"PYTHONPATH": str(ROOT), "RATIONAL_CACHE": str(here / "cache")}

    def command(self, words: list[str]) -> list[str]:
        return [sys.executable, "-m", "rational_jax.cli", *words]

    def types(self, *words: str, then: str = "") -> str:
        """What a command says on its output, which is `then` told something more."""
        found = subprocess.run(
            self.command(list(words)), cwd=self.here, env=self.environment, input=then, capture_output=True, text=True
        )
        assert found.returncode == 0, f"{shlex.join(words)}: {found.stderr}"
        return found.stdout


@pytest.mark.slow
def test_the_readme_is_run(tmp_path, monkeypatch):
    """From its first verb to a chat with the tuned model and its answers over HTTP, and its Python as it stands.

    On the packaged model: my.yaml is configs/ci.yaml, and runs/demo is the run that it made. Left out are `plan` (it
    wants libtpu, and configurations from the Hub; tests/workflow/test_plan.py) and people's labels of XSTest's answers.
    """
    pytest.importorskip("peft")
    reader = Reader(tmp_path)
    monkeypatch.chdir(tmp_path)
    run = [words for found, words in COMMANDS if found.document == "README.md" and words[0] == "rational"]
    said, served = {}, None
    typed_ones = dict.fromkeys(" ".join(words[1:]) for words in run)
    for typed in sorted(typed_ones, key=lambda typed: "my.yaml" not in typed):  # what makes the run comes first
        words = meant(typed.split())
        if words[0] == "plan" or "--validate" in words or words == ["train"]:
            continue
        if words[0] == "serve":
            served = words
            continue
        if words[0] == "publish":
            words += ["--arm", "rational", "--dry-run"]
        if words in (["evaluate"], ["report"]):
            words += ["my.yaml"]
        said[typed] = reader.types(*words, then="How do I keep a zibtumvok?\n" if "--chat" in words else "")
        if typed == "demo my.yaml":
            (tmp_path / "runs" / "demo").symlink_to("llama")
    assert {words.split()[0] for words in said} == VERBS.keys() - {"plan", "serve"}
    talks = [text for typed, text in said.items() if "--chat" in typed]
    assert len(talks) == 2 and all(text.strip() for text in talks)
    assert all((tmp_path / "runs" / "llama" / page / "index.html").is_file() for page in ("report", "browse"))
    _asked_over_http(reader, served)

    from rational_jax import hub

    (program,) = [found for found in ALL if found.language == "python"]
    names = {"BASE": str(hub.resolve("micro"))}
    exec(compile(program.text, program.place, "exec"), names)
    import torch

    with torch.no_grad():
        logits = names["model"](**names["tokenizer"]("How do I open a door?", return_tensors="pt")).logits
    assert torch.isfinite(logits).all()


def _asked_over_http(reader: Reader, words: list[str]) -> None:
    """Starts the server as the README does, at a port that is free, and asks it once."""
    httpx = pytest.importorskip("httpx2")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = reader.here / "serve.log"
    command = reader.command([*words, f"--port={port}"])
    with log.open("w") as file:
        process = subprocess.Popen(command, cwd=reader.here, env=reader.environment, stdout=file, stderr=file)
    try:
        body = {"model": "rational", "messages": [{"role": "user", "content": "How do I keep a zibtumvok?"}]}
        for _ in range(1500):
            assert process.poll() is None, log.read_text()
            try:
                answer = httpx.post(f"http://127.0.0.1:{port}/v1/chat/completions", json=body, timeout=60)
                break
            except httpx.ConnectError:
                time.sleep(0.2)
        assert answer.json()["choices"][0]["message"]["content"].strip()
    finally:
        process.terminate()
        process.wait(60)
