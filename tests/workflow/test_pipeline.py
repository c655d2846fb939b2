"""The whole pipeline in processes of its own: others load its exports, and kill -9 at the worst moments is no loss."""

import hashlib
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from rational_jax import hub, models, train
from rational_jax.config import load_config
from rational_jax.data.suites import load_suite
from rational_jax.errors import UserError
from rational_jax.sample import Request, open_engine
from rational_jax.workflow import export

REPOSITORY = Path(__file__).parents[2]
CONFIG = REPOSITORY / "configs" / "ci.yaml"
DYING = Path(__file__).with_name("dying.py")

# In the order in which one run meets them.
POINTS = ("in_generation", "in_training_step", "in_checkpoint_save", "between_log_lines", "in_export", "in_generation")
SAME = (
    "curate/generations.jsonl",
    "curate/rejected.jsonl",
    "curate/funnel.json",
    "export/*/adapter/adapter_model.safetensors",
    "export/*/merged/model.safetensors",
    "sample/*/answers.jsonl",
    "evaluate/judgements.jsonl",
    "evaluate/results.json",
    "evaluate/tables/*.csv",
)


def rational(point: str, *arguments: str) -> subprocess.CompletedProcess:
    """The `rational` command, dying at `point`. It sees one pool of threads, not the tests' eight devices."""
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY), "XLA_FLAGS": ""}
    command = [sys.executable, str(DYING), point, *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=900)


def demo(run: Path, point: str = "never") -> int:
    result = rational(point, "demo", str(CONFIG), f"run={run}")
    assert result.returncode in (0, -signal.SIGKILL), result.stdout[-2000:] + result.stderr[-4000:]
    return result.returncode


def hashes(run: Path) -> dict[str, str]:
    files = sorted(file for pattern in SAME for file in run.glob(pattern))
    return {str(file.relative_to(run)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The folder of a run that was never stopped."""
    run = tmp_path_factory.mktemp("whole") / "run"
    assert demo(run) == 0
    return run


def test_a_run_killed_again_and_again_ends_in_the_same_bytes(whole, tmp_path):
    run = tmp_path / "run"
    for point in POINTS:
        assert demo(run, point) == -signal.SIGKILL, f"the run never came to {point}"
    assert demo(run) == 0
    expected = hashes(whole)
    assert len(expected) > 3 + 2 * 2 + 3 + 2, sorted(expected)
    assert hashes(run) == expected


def test_finished_work_is_not_done_again(whole):
    before = {file: file.stat().st_mtime_ns for file in whole.rglob("*.jsonl")}
    before |= {file: file.stat().st_mtime_ns for file in whole.rglob("*.safetensors")}
    # Where anything were generated or trained again, these would be the end of the process.
    assert demo(whole, "in_training_step") == 0
    assert demo(whole, "in_generation") == 0
    assert {file: file.stat().st_mtime_ns for file in before} == before


def test_another_configuration_is_refused_by_name(whole):
    result = rational("never", "train", str(CONFIG), f"run={whole}", "train.learning_rate=0.5")
    assert result.returncode == 2
    assert "train.learning_rate: 0.001 -> 0.5" in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1


def test_a_last_checkpoint_that_was_deleted_is_made_again(whole, tmp_path):
    """As the message about a damaged one advises; nothing is exported of the one before it meanwhile."""
    for part in ("curate", "train/rational"):
        shutil.copytree(whole / part, tmp_path / part)
    last = tmp_path / "train" / "rational" / "checkpoints" / "12"
    shutil.rmtree(last)
    config = load_config(CONFIG, [f"run={tmp_path}"])
    with pytest.raises(UserError, match=r"ends at step 8 of 12: run `rational train` again"):
        export.run(config, "rational")
    train.run(config, "rational")
    assert last.is_dir()
    for step in last.parent.iterdir():  # to save space, say: that is no damage
        shutil.rmtree(step)
    train.run(config, "rational")
    assert not last.exists()


@pytest.fixture(scope="module")
def exported(whole):
    return whole / "export" / "rational"


def test_transformers_decodes_the_same_tokens(whole, exported):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    config = load_config(CONFIG, [f"run={whole}"])
    backend = open_engine(config, "rational")
    requests = [
        Request(id=prompt.id, messages=prompt.messages, max_new_tokens=80) for prompt in load_suite("micro", 12)
    ]
    theirs = transformers.AutoModelForCausalLM.from_pretrained(exported / "merged", dtype=torch.float32)
    asked = {request.id: backend.renderer.prompt(request.messages) for request in requests}
    compared = 0
    for completion in backend.generate(requests):
        prompt = asked[completion.id]
        ours = [*completion.token_ids, *backend.renderer.stop_ids[:1]][: 80 if completion.finish == "length" else None]
        output = theirs.generate(
            torch.tensor([prompt]),
            max_new_tokens=len(ours),
            do_sample=False,
            output_logits=True,
            return_dict_in_generate=True,
        )
        decoded = output.sequences[0, len(prompt) :].tolist()
        for place, (mine, other) in enumerate(zip(ours, decoded, strict=False)):
            if mine != other:
                logits = output.logits[place][0]
                best, second = logits.topk(2).values.tolist()
                # Both may be right where the two best are as close as two float32 implementations are to each other.
                assert best - second <= 2 * hub.TOLERANCE * float(logits.abs().max()), (completion.id, place)
                break
            compared += 1
    assert compared > 300


def test_peft_loads_the_adapter_on_the_base(exported):
    torch = pytest.importorskip("torch")
    peft = pytest.importorskip("peft")
    transformers = pytest.importorskip("transformers")
    base = hub.resolve("micro")
    decoder = hub.load_config(base)
    plain = transformers.AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    theirs = peft.PeftModel.from_pretrained(plain, exported / "adapter")
    tokens = np.random.default_rng(0).integers(0, decoder.vocab_size, (2, 200))
    with torch.no_grad():
        expected = theirs(torch.tensor(tokens)).logits.numpy()
        with theirs.disable_adapter():
            untrained = theirs(torch.tensor(tokens)).logits.numpy()
    adapter = hub.load_adapter(exported / "adapter", decoder)
    params = models.combine(hub.load_params(base, decoder, jnp.float32), adapter.params)
    model = models.bind(decoder, params, adapter.lora)
    got = np.asarray(model.unembed(model(jnp.asarray(tokens))[0]))
    scale = np.abs(expected).max()
    assert np.abs(got - expected).max() <= hub.TOLERANCE * scale
    assert np.abs(untrained - expected).max() > 100 * hub.TOLERANCE * scale
