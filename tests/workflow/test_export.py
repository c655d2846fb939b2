"""A trained arm becomes directories that others load, or an error and nothing."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import fsspec
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tokenizers
import transformers
from tiny import tiny_llama

from rational_jax import hub, sample
from rational_jax.checkpoint import Checkpoints
from rational_jax.config import EngineSection, RunConfig
from rational_jax.errors import UserError
from rational_jax.hub import save
from rational_jax.manifest import Stage, read_stage
from rational_jax.models import LoraConfig, abstract_params, bind, init_lora, merge_lora, quantize
from rational_jax.storage import sha256_file, sha256_tree
from rational_jax.text.chat import Message
from rational_jax.workflow import export

STEPS = 7
DECODER = tiny_llama(vocab_size=45, mlp_dim=40, norm_eps=1e-5)
LORA = LoraConfig(rank=2, alpha=3.0, targets=("q_proj", "o_proj", "up_proj"))
TEMPLATE = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}<eos>{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


def random_like(shapes: dict) -> dict:
    random = np.random.default_rng(0)
    return jax.tree.map(lambda leaf: jnp.asarray(0.2 * random.standard_normal(leaf.shape, np.float32)), shapes)


def rounded(tree):
    return jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), tree)


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    """A bfloat16 base with a tokenizer and a chat template."""
    directory = tmp_path_factory.mktemp("models") / "tiny"
    hub.save_model(directory, DECODER, rounded(random_like(abstract_params(DECODER))))
    letters = [*"abcdefghijklmnopqrstuvwxyzWIT.?<>/ \n", "<eos>", "<user>", "<assistant>", "<unk>"]
    core = tokenizers.Tokenizer(tokenizers.models.WordLevel({c: i for i, c in enumerate(letters)}, unk_token="<unk>"))
    core.pre_tokenizer = tokenizers.pre_tokenizers.Split("", "isolated")
    core.decoder = tokenizers.decoders.Fuse()
    core.add_special_tokens(["<eos>", "<user>", "<assistant>"])
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<eos>", unk_token="<unk>")
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(directory)
    return directory


@pytest.fixture(scope="module")
def factors() -> dict:
    return random_like(jax.eval_shape(lambda: init_lora(DECODER, LORA, jax.random.key(0))))


def train(config: RunConfig, trainable: dict, base: Path, lora: LoraConfig | None) -> None:
    """What `rational train` leaves."""
    stage = Stage.open(
        Path(config.run) / "train" / "rational",
        verb="train",
        settings={"train": config.train.model_dump(mode="json"), "chat": config.chat.model_dump(mode="json")},
        inputs={"curate": "0" * 64},
    )
    state = {"trainable": trainable, "opt_state": (None, {"mu": jnp.ones(3)}), "step": jnp.int32(STEPS)}
    made = {
        "method": config.train.method,
        "lora": dataclasses.asdict(lora) if lora else None,
        "quantize": config.train.quantize if config.train.method == "qlora" else None,
        "base": hub.identity(base),
    }
    with Checkpoints(stage.directory / "checkpoints", keep=1) as checkpoints:
        checkpoints.save(STEPS, state, made)
    stage.finish(outputs={}, figures={})


def configured(run: Path, base: Path, method: str = "lora", **changes) -> RunConfig:
    section = {"method": method, "quantize": "int8", "steps": STEPS, "warmup_steps": 0}
    return RunConfig.model_validate(
        {"run": str(run), "model": {"name": str(base)}, "train": section, "export": changes}
    )


@pytest.fixture
def lora_run(tmp_path, base, factors):
    """A trained LoRA run; call with export settings to get its configuration."""
    train(configured(tmp_path / "run", base), factors, base, LORA)
    return lambda **changes: configured(tmp_path / "run", base, **changes)


def read(directory: Path, dtype=None) -> dict:
    return hub.load_params(directory, hub.load_config(directory), dtype)


def assert_equal(ours: dict, theirs: dict) -> None:
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)


def assert_merged(found: dict, base: dict, factors: dict, dtype: str) -> None:
    """Every matrix is the base plus the update, computed in float32 and rounded once, to `dtype`."""
    for (where, ours), old in zip(jax.tree.leaves_with_path(found), jax.tree.leaves(base), strict=True):
        assert ours.dtype == dtype
        exact = size = np.asarray(old, np.float64)
        *path, _ = (key.key for key in where)
        pair = factors
        for key in path:
            pair = pair.get(key, {})
        if pair:
            a, b = (np.asarray(pair[name], np.float64) for name in ("lora_a", "lora_b"))
            exact = exact + LORA.scale * b @ a
            size = np.abs(size) + LORA.scale * np.abs(b) @ np.abs(a)
        # A sum of two products, the scale and the last sum: at most 5 roundings to 24 bits, then one to those of dtype.
        bound = 5 * 2.0**-24 * np.abs(size)
        if dtype == "bfloat16":
            bound += np.ldexp(1.0, np.frexp(exact)[1] - 9)
        assert (np.abs(np.asarray(ours, np.float64) - exact) <= bound).all(), path


def test_both_parts_checked_by_transformers_and_peft(lora_run, base, factors):
    pytest.importorskip("torch")
    pytest.importorskip("peft")
    directory = export.run(lora_run(), "rational")

    assert_merged(read(directory / "merged"), read(base), factors, "bfloat16")
    adapter = hub.load_adapter(directory / "adapter", DECODER)
    assert adapter.lora == LORA and adapter.base_name == str(base)
    assert_equal(adapter.params, factors)
    assert (directory / "merged" / "chat_template.jinja").read_text() == TEMPLATE

    manifest = read_stage(directory, verb="export")
    assert manifest["figures"]["merged"]["method"] == "transformers"
    assert manifest["figures"]["adapter"]["method"] == "peft"
    # Two random rows and the rendered chat.
    assert manifest["figures"]["merged"]["tokens"] > 128
    assert 0 < manifest["figures"]["adapter"]["error"] <= 1e-4
    assert manifest["outputs"] == sha256_tree(directory, ignore=("manifest.json", ".lock")) | {
        f"{part}/manifest.json": sha256_file(directory / part / "manifest.json") for part in ("merged", "adapter")
    }
    for part in ("merged", "adapter"):
        described = json.loads((directory / part / "manifest.json").read_text())
        assert described["files"] == sha256_tree(directory / part, ignore=("manifest.json",))
        assert described["base"] == hub.identity(base)
        card = (directory / part / "README.md").read_text()
        assert "`rational`" in card and "| `train.learning_rate` | 0.001 |" in card and "verified with" in card


@pytest.mark.parametrize(
    ("dtype", "expected"), [("float32", "float32"), ("bfloat16", "bfloat16"), ("base", "bfloat16")]
)
def test_dtype_of_the_merged_model(lora_run, base, factors, dtype, expected):
    directory = export.run(lora_run(dtype=dtype, verify="self", adapter=False), "rational")
    assert sorted(p.name for p in directory.iterdir() if p.is_dir()) == ["merged"]
    assert_merged(read(directory / "merged"), read(base), factors, expected)
    assert json.loads((directory / "merged" / "config.json").read_text())["torch_dtype"] == expected
    assert "self-verified" in (directory / "merged" / "README.md").read_text()


def test_full_training_exports_what_was_trained(tmp_path, base):
    trained = jax.tree.map(lambda leaf: leaf.astype(jnp.float32) + 0.01, read(base))
    config = configured(tmp_path / "run", base, method="full", verify="self", dtype="float32")
    train(config, trained, base, None)
    directory = export.run(config, "rational")
    assert_equal(read(directory / "merged"), trained)
    assert not (directory / "adapter").exists()
    with pytest.raises(UserError, match=r"set export\.merged=true"):
        export.run(configured(tmp_path / "run", base, method="full", merged=False), "rational")


def test_qlora_is_merged_into_the_original_base(tmp_path, base, factors):
    """And the gate says how far that is from the quantized base that it was trained on."""
    config = configured(tmp_path / "run", base, method="qlora", verify="self")
    train(config, factors, base, LORA)
    directory = export.run(config, "rational")
    assert_merged(read(directory / "merged"), read(base), factors, "bfloat16")
    assert hub.load_adapter(directory / "adapter", DECODER).lora == LORA

    tokens = hub.probe_tokens(DECODER)[0][None]
    params = {"quantized": quantize.dequantize_tree(quantize.quantize_tree(read(base), "int8"))}
    params |= {
        "merged": read(directory / "merged"),
        "quantized": merge_lora(params["quantized"], factors, DECODER, LORA),
    }
    logits = {}
    for name, tree in params.items():
        decoder = bind(DECODER, jax.tree.map(lambda leaf: leaf.astype(jnp.float32), tree))
        logits[name] = np.asarray(decoder.unembed(decoder(tokens)[0]))
    off = np.abs(logits["merged"] - logits["quantized"]).max() / np.abs(logits["quantized"]).max()
    figures = read_stage(directory, verb="export")["figures"]
    # Over more rows than this one it may be larger; it is far from what a wrong layer would make of it.
    assert 1e-3 < off <= figures["merged"]["from_quantized"] * 1.001 < 0.2
    assert figures["adapter"]["from_quantized"] is None


def test_a_second_run_changes_nothing_and_other_settings_are_refused(lora_run):
    config = lora_run(verify="self")
    directory = export.run(config, "rational")
    before = {f: (f.stat().st_mtime_ns, f.stat().st_ino) for f in directory.rglob("*") if f.is_file()}
    said = []

    class Listener(type(export.SILENT)):
        def message(self, text):
            said.append(text)

    export.run(config, "rational", Listener())
    assert said == ["export rational: already done"]
    assert before == {f: (f.stat().st_mtime_ns, f.stat().st_ino) for f in directory.rglob("*") if f.is_file()}
    with pytest.raises(UserError, match=r"export\.dtype: base -> float32"):
        export.run(lora_run(verify="self", dtype="float32"), "rational")


def test_a_part_that_came_without_its_verification_is_verified_again(lora_run, monkeypatch):
    """Another machine goes on: records are hidden files, which neither a bucket nor a copy of the run needs to hold."""
    config = lora_run(verify="self")

    def stopped(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Stage, "finish", stopped)
        with pytest.raises(KeyboardInterrupt):
            export.run(config, "rational")
    folder = Path(config.run) / "export" / "rational"
    before = sha256_tree(folder / "merged")
    for record in (folder / ".merged.json", folder / ".adapter.json"):
        record.unlink()
    export.run(config, "rational")
    assert sha256_tree(folder / "merged") == before
    figures = read_stage(folder, verb="export")["figures"]
    assert {part: figures[part]["method"] for part in figures} == {"merged": "self", "adapter": "self"}
    assert not list(folder.glob(".*.json"))


def test_the_gate_lets_nothing_wrong_appear(lora_run, monkeypatch):
    write = hub.write_model

    def forgetful(directory, config, weights, **options):
        params = weights.tree()
        params["norm"]["weight"] *= 2
        write(directory, config, params, **options)

    monkeypatch.setattr(hub, "write_model", forgetful)
    with pytest.raises(UserError, match=r"off: model\.norm\.weight"):
        export.run(lora_run(verify="self"), "rational")
    directory = Path(lora_run().run) / "export" / "rational"
    assert {p.name for p in directory.iterdir()} <= {"manifest.json", ".lock"}
    monkeypatch.undo()
    export.run(lora_run(verify="self"), "rational")
    assert (directory / "merged").is_dir()


def test_an_object_store_gets_a_copy_that_counts_when_it_is_complete(lora_run):
    store = fsspec.filesystem("memory")
    store.store.clear()
    directory = export.run(lora_run(verify="self", adapter=False), "rational")
    # A finished export can be uploaded later: where it goes is no setting that the export depends on.
    for _ in range(2):
        export.run(lora_run(verify="self", adapter=False, upload="memory://bucket/models/"), "rational")
    found = {name.removeprefix("/bucket/models/rational/"): store.cat_file(name) for name in store.find("/bucket")}
    assert json.loads(found.pop("COMMITTED.json")) == read_stage(directory, verb="export")["outputs"]
    assert found == {f"merged/{file.name}": file.read_bytes() for file in (directory / "merged").iterdir()}
    store.store.clear()


def test_what_is_not_there_is_named(lora_run, base, tmp_path):
    with pytest.raises(UserError, match="run `rational train` first"):
        export.run(configured(tmp_path / "other", base), "rational")
    run = Path(lora_run().run)
    changed = tmp_path / "changed"
    params = jax.tree.map(lambda leaf: leaf * 2, read(base))
    hub.save_model(changed, DECODER, params, source=base)
    with pytest.raises(UserError, match="is not the one that 'rational' was trained from"):
        export.run(configured(run, changed), "rational")
    file = next((run / "train" / "rational" / "checkpoints" / "7" / "state" / "d").iterdir())
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(UserError, match="cut short"):
        export.run(lora_run(), "rational")
    assert not (run / "export").exists()


# For each pair of a configuration and a pattern: a process that exports and kills itself when something of that pattern
# appears in the directory of the export. Imports are done once, before the JAX runtime exists.
KILLED = """
import json, os, signal, sys, threading, time
from pathlib import Path
from rational_jax.config import RunConfig
from rational_jax.hub import save
from rational_jax.workflow import export

save.SHARD_BYTES = 8000

def scenario(config, pattern):
    def watch():
        while True:
            try:
                found = next((Path(config.run) / "export" / "rational").glob(pattern), None)
            except FileNotFoundError:
                found = None
            if found:
                os.kill(os.getpid(), signal.SIGKILL)
            time.sleep(0.0002)

    threading.Thread(target=watch, daemon=True).start()
    export.run(config, "rational")

children = []
for config, pattern in json.loads(sys.argv[1]):
    child = os.fork()
    if child == 0:
        try:
            scenario(RunConfig.model_validate_json(config), pattern)
        finally:
            os._exit(1)
    children.append(child)
print(json.dumps([os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]))
"""


def test_killed_and_run_again_leaves_equal_bytes(tmp_path, base, factors, monkeypatch):
    monkeypatch.setattr(save, "SHARD_BYTES", 8000)
    configs = [configured(tmp_path / name, base, verify="self") for name in ("whole", "first", "second")]
    for config in configs:
        train(config, factors, base, LORA)
    whole = export.run(configs[0], "rational")
    path = os.pathsep.join([str(Path(__file__).parents[2]), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "PYTHONPATH": path, "JAX_PLATFORMS": "cpu"}
    patterns = ("merged.partial/model-00004-of-*.safetensors", "adapter.partial/*")
    pairs = json.dumps([(c.model_dump_json(), p) for c, p in zip(configs[1:], patterns, strict=True)])
    command = [sys.executable, "-W", "ignore", "-c", KILLED, pairs]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [-signal.SIGKILL] * 2, done.stderr
    # What is kept: the files of weights that were whole and on the disk, and the parts that were. A file goes to the
    # disk while the next one is written, so the last ones before the kill may be written again.
    kept = (["merged.partial/model-00001-of-"], ["merged/"])
    for config, beginnings in zip(configs[1:], kept, strict=True):
        directory = Path(config.run) / "export" / "rational"
        inodes = {
            file.name: file.stat().st_ino
            for file in directory.glob("merged*/*")
            if file.relative_to(directory).as_posix().startswith(tuple(beginnings))
        }
        assert len(inodes) >= len(beginnings)
        assert export.run(config, "rational") == directory
        assert inodes.items() <= {file.name: file.stat().st_ino for file in (directory / "merged").iterdir()}.items()
        for part in ("merged", "adapter"):
            # The training runs differ by their checkpoints' directories only, so their digests are equal.
            assert sha256_tree(directory / part) == sha256_tree(whole / part)
        assert {path.name for path in directory.iterdir()} == {"adapter", "merged", "manifest.json"}
        ours, theirs = (read_stage(d, verb="export") for d in (directory, whole))
        assert ours["figures"] == theirs["figures"] and ours["outputs"] == theirs["outputs"]


@pytest.mark.parametrize("method", ["lora", "full"])
def test_the_engine_reads_a_training_run_as_it_reads_its_export(method, tmp_path, base, factors):
    """Same weights, bit for bit, and so the same tokens; and a run that is not exported is told what to do."""
    config = configured(tmp_path / "run", base, method, verify="self", adapter=method == "lora")
    train(config, factors if method == "lora" else read(base, jnp.float32), base, LORA if method == "lora" else None)
    engine = {"slots": 2, "max_length": 32}
    direct = config.model_copy(update={"engine": EngineSection(weights="checkpoint", **engine)})
    exported = config.model_copy(update={"engine": EngineSection(**engine)})
    with pytest.raises(UserError, match="export"):
        sample.open_engine(exported, "rational")
    of_run = sample.open_engine(direct, "rational")
    export.run(config, "rational")
    of_export = sample.open_engine(exported, "rational")
    assert_equal(of_run.engine.params, of_export.engine.params)
    assert of_run.identity != of_export.identity
    asked = [sample.Request(id="1", messages=(Message(role="user", content="is it?"),), max_new_tokens=8)]
    assert [c.token_ids for c in of_run.generate(asked)] == [c.token_ids for c in of_export.generate(asked)]


def test_an_engine_of_quantized_weights_decodes_what_their_full_pass_says(base):
    section = EngineSection(quantize="int8", slots=2, max_length=32)
    opened = sample.open_engine(
        RunConfig.model_validate({"model": {"name": str(base)}}).model_copy(update={"engine": section})
    )
    assert opened.identity["quantize"] == "int8"
    prompt = opened.renderer.prompt([Message(role="user", content="what is it?")])
    (done,) = opened.generate([sample.Request(id="1", messages=(), prompt_ids=tuple(prompt), max_new_tokens=8)])
    # The independent reference: the numbers that the codes stand for, in a pass over the whole sequence.
    plain = quantize.dequantize_tree(opened.engine.params)
    tokens = jnp.asarray([*prompt, *done.token_ids])[None]
    decoder = bind(hub.load_config(base), plain)
    logits = np.asarray(decoder.unembed(decoder(tokens)[0]))[0, len(prompt) - 1 : -1]
    for row, token in zip(logits, done.token_ids, strict=True):
        assert row.max() - row[token] <= 1e-4  # the parity tolerance of logits
