"""Datasets that others made: on the Hub, streamed by `datasets` from a stand-in, and in TFDS."""

import time

import datasets
import numpy as np
import pytest
from prompt_hub import COMMIT, GATED, serving

from rational_jax.config import PromptSource
from rational_jax.data import tables
from rational_jax.data.sources import read_prompts
from rational_jax.errors import Unreachable, UserError

COLUMNS = {"prompt": "question", "category": "topic"}


@pytest.fixture
def server(tmp_path, monkeypatch):
    with serving(tmp_path, monkeypatch) as server:
        monkeypatch.setattr(datasets.config, "HF_ENDPOINT", server.address)
        yield server


def test_a_dataset_of_the_hub_by_its_columns(server):
    source = PromptSource(
        source="hf:someone/requests",
        split="test",
        revision=COMMIT,
        columns=COLUMNS | {"label": "toxic", "subject": "topic"},
        labels={"yes": "harmful", "no": "benign"},
    )
    found = read_prompts(source)
    assert [(p.id, p.text, p.category, p.label, p.source, p.meta) for p in found] == [
        ("someone/requests:1", "May I?", "x", "benign", "someone/requests", {"subject": "x"}),
        ("someone/requests:2", "And that?", "y", "harmful", "someone/requests", {"subject": "y"}),
    ]
    assert [p.id for p in read_prompts(source, limit=1)] == ["someone/requests:1"]
    # Columns that are called as ours are need no map; of the others what is a plain value is kept.
    (plain,) = read_prompts("hf:someone/plain")
    assert (plain.id, plain.text, plain.label, plain.meta) == ("someone/plain:7", "May I?", "benign", {"n": "3"})


@pytest.mark.parametrize("with_ids", [False, True])
def test_parts_of_one_dataset_have_ids_of_their_own(monkeypatch, with_ids):
    rows = {"id": "7"} if with_ids else {}
    monkeypatch.setattr(tables, "_hub", lambda source, name: [{"prompt": f"{source.config}, {source.split}", **rows}])
    parts = [{}, {"split": "test"}, {"config": "hard", "split": "test"}, {"config": "hard"}]
    found = read_prompts([PromptSource(source="hf:someone/asked", **part) for part in parts])
    names = ["", "@test", "@hard:test", "@hard"]
    assert [prompt.id for prompt in found] == [f"someone/asked:{7 if with_ids else 1}{name}" for name in names]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"columns": {"prompt": "query"}}, "there is no column 'query'; there are question, topic, toxic"),
        ({"columns": {}}, "a prompt needs exactly one of messages, prompt, text"),
        ({"columns": COLUMNS | {"label": "toxic"}}, "label 'no' is not one of harmful, benign, unknown"),
        (
            {"columns": COLUMNS | {"label": "toxic"}, "labels": {"yes": "harmful"}},
            "someone/requests:1: label 'no' is not among the labels of the source",
        ),
        ({"split": "validation"}, "(?i)split.*validation"),
        ({"config": "other"}, "someone/requests: .*other"),
        ({"revision": "v9"}, "v9.*datasets/someone/requests"),
        ({"source": "hf:someone/nothing"}, "'someone/nothing' doesn't exist on the Hub or cannot be accessed"),
        ({"source": f"hf:{GATED}"}, rf"gated: ask for access at https://huggingface.co/datasets/{GATED}, then"),
    ],
)
def test_what_is_wrong_is_one_line(server, changes, message):
    fields = {"source": "hf:someone/requests", "split": "test", "columns": COLUMNS} | changes
    with pytest.raises(UserError, match=message) as caught:
        read_prompts(PromptSource(**fields))
    assert "\n" not in str(caught.value)


def test_without_the_network(server, monkeypatch):
    monkeypatch.setattr(time, "sleep", lambda _: None)  # between the library's tries
    server.shutdown()
    server.server_close()
    with pytest.raises(Unreachable, match="someone/requests: the Hub cannot be reached") as caught:
        read_prompts("hf:someone/requests")
    assert "\n" not in str(caught.value)


def tfds_folder(folder):
    """A dataset of TFDS in the format array_record, as `tfds build` leaves it, of two questions."""
    import tensorflow_datasets as tfds
    from array_record.python.array_record_module import ArrayRecordWriter
    from tensorflow_datasets.core.dataset_info import DatasetIdentity
    from tensorflow_datasets.core.example_serializer import ExampleSerializer

    features = tfds.features.FeaturesDict(
        {
            "question": tfds.features.Text(),
            "toxic": tfds.features.ClassLabel(names=["no", "yes"]),
            "number": np.int64,
        }
    )
    serializer = ExampleSerializer(features.get_serialized_info())
    folder.mkdir()
    writer = ArrayRecordWriter(str(folder / "asked-train.array_record-00000-of-00001"), "group_size:1")
    for row in (
        {"question": "Darf ich das öffnen?", "toxic": "no", "number": 5},
        {"question": "Und das?", "toxic": "yes", "number": 6},
    ):
        writer.write(serializer.serialize_example(features.encode_example(row)))
    writer.close()
    template = tfds.core.ShardedFileTemplate(
        dataset_name="asked", data_dir=folder, split="train", filetype_suffix="array_record"
    )
    split = tfds.core.SplitInfo(name="train", shard_lengths=[2], num_bytes=100, filename_template=template)
    identity = DatasetIdentity(
        name="asked", version=tfds.core.Version("1.0.0"), data_dir=str(folder), module_name="tests"
    )
    info = tfds.core.DatasetInfo(
        builder=identity, features=features, split_dict=tfds.core.splits.SplitDict([split]), disable_shuffling=True
    )
    info.set_file_format("array_record")
    info.write_to_directory(folder)
    return folder


def test_a_dataset_of_tfds(tmp_path):
    folder = tfds_folder(tmp_path / "asked")
    source = PromptSource(
        source=f"tfds:{folder}",
        columns={"prompt": "question", "label": "toxic", "number": "number"},
        labels={"no": "benign", "yes": "harmful"},
    )
    found = read_prompts(source)
    assert [(p.text, p.label, p.meta) for p in found] == [
        ("Darf ich das öffnen?", "benign", {"number": "5"}),
        ("Und das?", "harmful", {"number": "6"}),
    ]
    with pytest.raises(UserError, match="cannot be read"):
        read_prompts(PromptSource(**source.model_dump() | {"split": "test"}))
    with pytest.raises(UserError, match="has no revisions"):
        read_prompts(PromptSource(**source.model_dump() | {"revision": "v1"}))
    with pytest.raises(UserError, match="TFDS has no dataset of that name"):
        read_prompts("tfds:there_is_no_such_set")
