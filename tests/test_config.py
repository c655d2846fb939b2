import random
import re

import pydantic
import pytest

from rational_jax.config import PromptSource, RunConfig, TrainSection, bundled_configs, load_config, to_yaml, yaml12
from rational_jax.errors import UserError


def refusal(path, *overrides):
    with pytest.raises(UserError) as error:
        load_config(path, overrides)
    message = str(error.value)
    assert "\n" not in message, "one line is the promise"
    return message


@pytest.fixture
def written(tmp_path):
    def write(text):
        path = tmp_path / "mine.yaml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return write


def test_no_file_is_all_defaults():
    assert load_config(None) == RunConfig()


@pytest.mark.parametrize("name", bundled_configs())
def test_bundled_configurations_load_and_come_back_from_yaml(name, written):
    config = load_config(bundled_configs()[name])
    assert load_config(written(to_yaml(config))) == config
    assert {"demo.yaml", "ci.yaml"} <= bundled_configs().keys()


def test_overrides_of_nested_tuple_and_null_values():
    config = load_config(
        None,
        [
            "train.steps=7",
            "train.warmup_steps=3",
            "train.lora.rank=4",
            "train.learning_rate=1e-3",
            "train.lora.targets=[q_proj, v_proj]",
            "train.arms=[refusal]",
            "sample.models=[base]",
            "curate.limit=5",
            "curate.limit=null",
            "model.revision=1234",
            "export.verify=off",
            "run=2024-01-01",
            "report.title=A: the = [sign]",
        ],
    )
    assert config.train.steps == 7
    assert config.train.lora.rank == 4
    assert config.train.lora.alpha == 32.0, "an override of one key must leave its neighbours"
    assert config.train.lora.targets == ("q_proj", "v_proj")
    assert config.train.learning_rate == 0.001
    assert config.curate.limit is None
    assert config.model.revision == "1234"
    assert config.export.verify == "off"
    assert config.run == "2024-01-01"
    assert config.report.title == "A: the = [sign]"
    assert load_config(None, ["model.revision=main", "model.revision=null"]).model.revision is None
    assert load_config(None, ["train={steps: 50, lora: {rank: 2}}"]).train.lora.alpha == 32.0


def test_sources_are_texts_or_sections_or_both(written):
    text = """
curate:
  prompts: [xstest@here, {source: "hf:a/b", columns: {prompt: q}, labels: {1: harmful}, where: {style: [x, y]}}]
"""
    config = load_config(written(text))
    first, second = config.curate.prompts
    assert first == PromptSource(source="xstest@here")
    assert (second.source, second.columns, second.labels) == ("hf:a/b", {"prompt": "q"}, {"1": "harmful"})
    assert second.where == {"style": ("x", "y")}
    assert load_config(written(to_yaml(config))) == config
    assert load_config(None, ["curate.prompts=xstest@here"]).curate.prompts == (first,)
    assert load_config(None, ["curate.prompts={source: xstest@here}"]).curate.prompts == (first,)


def test_overrides_stand_above_the_file(written):
    path = written("train:\n  steps: 50\nseed: 3\ntrain.batch_size: 2\n")
    config = load_config(path, ["train.steps=60"])
    assert (config.train.steps, config.train.batch_size, config.seed) == (60, 2, 3)


def test_the_words_of_yaml_1_2(written):
    config = load_config(written("export:\n  verify: off\ntrain:\n  learning_rate: 2e-4\n  steps: 010\ncurate:\n"))
    assert config.export.verify == "off"
    assert config.train.learning_rate == 0.0002
    assert config.train.steps == 10
    assert config.curate == RunConfig().curate, "a section whose keys are all commented out is an empty one"


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("train.stesp=1", "unknown key 'train.stesp'; did you mean train.steps? (command line)"),
        ("trian.steps=1", "unknown key 'trian.steps'; did you mean train.steps? (command line)"),
        ("learning_rate=1", "unknown key 'learning_rate'; did you mean train.learning_rate? (command line)"),
        ("temperature=1", "did you mean curate.temperature or sample.temperature?"),
        ("train.steps.x=1", "unknown key 'train.steps.x'"),
        ("model={nam: 1}", "unknown key 'model.nam'; did you mean model.name? (command line)"),
        ("zzz=1", "unknown key 'zzz'; --print-config shows all keys"),
        ("curate.prompts.source=x", "'curate.prompts.source' is of one item of curate.prompts, and no key by itself"),
        ("curate.prompts={source: x, colums: {}}", "'curate.prompts.colums'; did you mean curate.prompts.columns?"),
        ("curate.prompts=[x, {source: y, label: bad}]", "curate.prompts.label: expected harmful, benign or unknown"),
        ("curate.prompts=[]", "curate.prompts: expected at least one source (command line)"),
        ("curate.prompts=[x, 3]", "curate.prompts: expected a section of keys, got 3 (command line)"),
        ("train.steps=ten", "train.steps: expected a whole number, got 'ten' (command line)"),
        ("train.steps=1.5", "train.steps: expected a whole number, got 1.5"),
        ("train.steps=true", "train.steps: expected a whole number, got true"),
        ("train.steps=0", "train.steps: expected at least 1, got 0"),
        ("train.steps=" + "9" * 30, "train.steps: expected at most 2147483647, got 999"),
        ("train.steps=" + "9" * 5000, "train.steps: a number of thousands of digits"),
        ("train.steps=" + "[" * 1000, "train.steps: a number of thousands of digits, or brackets in brackets"),
        ("train.learning_rate=fast", "train.learning_rate: expected a number, got 'fast'"),
        ("train.learning_rate=1e999", "train.learning_rate: expected a number"),
        ("train.learning_rate=.nan", "train.learning_rate: expected a number"),
        ("train.learning_rate=true", "train.learning_rate: expected a number, got true"),
        ("export.merged=yes", "export.merged: expected true or false, got 'yes'"),
        ("curate.top_p=1.1", "curate.top_p: expected at most 1"),
        ("train.arms=rational", "train.arms: expected a list such as [a, b], got 'rational'"),
        ("train={arms: [circuit-breaker], method: full}", "circuit-breaker needs method lora or qlora"),
        ("train={arms: [circuit-breaker], rows: bucketed}", "circuit-breaker needs rows packed or padded"),
        ("train={arms: [circuit-breaker], batch_size: 5}", "circuit-breaker needs batch_size to be even"),
        ("train={arms: [circuit-breaker], heldout: 0.1}", "circuit-breaker needs heldout 0"),
        ("train.arms=[reckless]", "answer-first, shuffled or circuit-breaker, got 'reckless' ("),
        ("train.arms=[]", "train.arms: expected at least one, got []"),
        ("train=5", "train: expected a section of keys, got 5"),
        ("run=", "run: expected text, got null"),
        ("train.arms=[rational", "train.arms: is not YAML"),
        ("train.steps", "'train.steps' is no override; write KEY=VALUE"),
        ("=5", "'=5' is no override"),
        ("mesh.fsdp=0", "mesh: a size must be at least 1, or -1"),
        ("mesh.replica=-1", "mesh: only one of replica, fsdp and tensor may be -1"),
        ("train.warmup_steps=500", "warmup_steps (500) must not be more than steps (120)"),
        ("train.keep_best=true", "keep_best needs a held-out loss: set train.heldout"),
        ("train={keep_best: true, heldout: 0.1, heldout_every: 30}", "save_every to be a multiple of heldout_every"),
        ("train.profile=[7, 5]", "profile is the first and the last step of the trace, got [7, 5]"),
        ("train={method: qlora, sample_prompts: micro/dev}", "sample_prompts needs weights that are not quantized"),
        ("curate.keep=5", "curate.keep (5) is more than curate.samples (4)"),
        ("train.arms=[shuffled]", "train.arms names 'shuffled', which is not in curate.datasets (rational, refusal)"),
        (
            "train.arms=[rational]",
            "sample.models names 'refusal', which is not in base and train.arms (base, rational)",
        ),
        ("sample.models=[base, base]", "models names 'base' twice"),
        ("engine.max_length=100", "curate.max_new_tokens (160) does not fit in engine.max_length (100)"),
        ("sample.max_new_tokens=257", "sample.max_new_tokens (257) does not fit in engine.max_length (256)"),
        ("export={merged: false, adapter: false}", "one of merged and adapter must be true"),
    ],
)
def test_what_is_wrong_is_named(override, expected):
    assert expected in refusal(bundled_configs()["demo.yaml"], override)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("train:\n  stepz: 1\n", r"^unknown key 'train.stepz'; did you mean train.steps\? \(mine.yaml\)$"),
        ("train:\n  steps: ten\n", r"^train.steps: expected a whole number, got 'ten' \(mine.yaml\)$"),
        ("run: 2024\n", r"^run: expected text, got 2024 \(mine.yaml\)$"),
        ("- train\n- steps\n", r'mine.yaml: expected keys such as `train:`, got \["train", "steps"\]'),
        ("just words", r"mine.yaml: expected keys such as `train:`, got 'just words'"),
        ("seed: 1\ntrain: [\n", r"mine.yaml:\d: is not YAML"),
        ("seed: 1\nseed: 2\n", r"mine.yaml:2: is not YAML \(seed stands twice\)"),
        ("seed: !!python/object/apply:os.system [ls]\n", r"mine.yaml:1: is not YAML"),
        ("1: 2\n", r"unknown key '1'"),
        ("? [a, b]\n: 1\n", r"mine.yaml"),
        (b"\x00\x01\x02\xff", r"mine.yaml is not UTF-8 text"),
        (b"seed: \x01\n", r"mine.yaml: is not text"),
        ("a: 1\nb: 2\nc: 3\nd: 4\n", r"and 1 more$"),
    ],
)
def test_files_that_are_no_configuration(written, content, expected):
    assert re.search(expected, refusal(written(content)))


def test_wrong_paths(tmp_path):
    assert "nothing.yaml: no such file; the bundled configurations are" in refusal(tmp_path / "nothing.yaml")
    assert "is not a file" in refusal(tmp_path)


def test_an_empty_file_is_all_defaults(written):
    assert load_config(written("# nothing\n")) == RunConfig()


def test_a_configuration_does_not_change():
    config = RunConfig()
    with pytest.raises(pydantic.ValidationError):
        config.seed = 1
    with pytest.raises(pydantic.ValidationError):
        config.train.steps = 1
    with pytest.raises(pydantic.ValidationError):
        TrainSection(steps="10")


def test_every_field_says_what_it_means():
    def fields(model):
        for name, field in model.model_fields.items():
            inner = field.annotation if isinstance(field.annotation, type) else None
            if inner and issubclass(inner, pydantic.BaseModel):
                assert inner.__doc__
                yield from fields(inner)
            else:
                yield name, field

    found = dict(fields(RunConfig))
    assert len(found) > 50
    assert not [name for name, field in found.items() if not field.description or len(field.description) < 10]


def test_texts_and_numbers_survive_yaml():
    generator = random.Random(0)
    alphabet = "a1.-+e:#'\" \\\n\t\x07\x85\u2028é中😀{}[],&*!|>%@`~0_o"
    texts = ["", "off", "1e-3", "null", "~", "true", "010", "- a", "a: b", "=", "<<", " ", "…", "0x1f", "1_000", ".5"]
    texts += ["".join(generator.choices(alphabet, k=generator.randint(1, 8))) for _ in range(500)]
    for text in texts:
        line = yaml12.dump(text)
        assert "\n" not in line
        assert yaml12.load(f"key: {line}  # comment", "test") == {"key": text}
    for number in [0.1, 1e-5, 1e22, 123456789.0, 5e-324, -0.5, 3, -7, 10**20]:
        back = yaml12.load(yaml12.dump(number), "test")
        assert back == number and type(back) is type(number)
    assert yaml12.load(yaml12.dump([None, True, 1, "off"]), "test") == [None, True, 1, "off"]


def test_a_text_of_any_kind_comes_back_from_the_printed_configuration(written):
    config = RunConfig(report={"title": "line one\nline 'two': #3 \x1b[31m 中😀"}, model={"revision": "1e5"})
    assert load_config(written(to_yaml(config))) == config
