"""The TFDS format: ArrayRecord shards with features, a split, a version and checksums, without TensorFlow.

`tfds.builder_from_directory(<directory>/rationale_dataset/1.0.0)` and `tfds.data_source("rationale_dataset",
data_dir=<directory>)` read it.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rational_jax.data.rationale_dataset.checksums import FILE as CHECKSUMS
from rational_jax.data.rationale_dataset.checksums import shard_ranges, verify_checksums, write_checksums
from rational_jax.data.rationale_dataset.columns import from_row, to_row
from rational_jax.data.schema import LABELS, LAYOUTS, Rationale
from rational_jax.storage import atomic_directory

NAME = "rationale_dataset"
"""What the data set is called by TFDS, and its folder."""
VERSION = "1.0.0"
SPLIT = "train"
_FORMAT = "array_record"
_SHARD_EXAMPLES = 10_000


def write_tfds(rationales: Sequence[Rationale], directory: str | Path, description: str = "") -> None:
    """Writes the rationales in their order to `<directory>/rationale_dataset/1.0.0`; whole or not at all."""
    import tensorflow_datasets as tfds  # here, because it takes most of a second and few verbs need it
    from array_record.python.array_record_module import ArrayRecordWriter
    from tensorflow_datasets.core.dataset_info import DatasetIdentity
    from tensorflow_datasets.core.example_serializer import ExampleSerializer

    features = _features(tfds)
    serializer = ExampleSerializer(features.get_serialized_info())
    shards = shard_ranges(len(rationales), _SHARD_EXAMPLES)
    with atomic_directory(directory) as partial:
        home = partial / NAME / VERSION
        home.mkdir(parents=True)
        size = 0
        for number, shard in enumerate(shards):
            path = home / f"{NAME}-{SPLIT}.{_FORMAT}-{number:05d}-of-{len(shards):05d}"
            # One record a group: random access, as TFDS writes it.
            writer = ArrayRecordWriter(str(path), "group_size:1")
            for place in shard:
                example = serializer.get_tf_example(features.encode_example(to_row(rationales[place])))
                # TFDS itself serializes maps in any order, and the bytes would differ from run to run.
                record = example.SerializeToString(deterministic=True)
                size += len(record)
                writer.write(record)
            writer.close()
        template = tfds.core.ShardedFileTemplate(dataset_name=NAME, data_dir=home, split=SPLIT, filetype_suffix=_FORMAT)
        split = tfds.core.SplitInfo(
            name=SPLIT, shard_lengths=[len(shard) for shard in shards], num_bytes=size, filename_template=template
        )
        identity = DatasetIdentity(
            name=NAME, version=tfds.core.Version(VERSION), data_dir=str(home), module_name="rational_jax.data"
        )
        info = tfds.core.DatasetInfo(
            builder=identity,
            description=description or "Rationales: prompts with reasoning and answers to train on.",
            features=features,
            disable_shuffling=True,
            split_dict=tfds.core.splits.SplitDict([split]),
        )
        info.set_file_format(_FORMAT)
        info.write_to_directory(home)
        write_checksums(home, rationales)


def read_tfds(directory: str | Path) -> list[Rationale]:
    """What `write_tfds` wrote, in its order, by its folder or by the one with the version in it.

    UserError naming the file where one is missing, cut short or changed.
    """
    directory = Path(directory)
    home = directory if is_tfds(directory) else directory / NAME / VERSION
    checksums = verify_checksums(home)
    if not checksums["examples"]:
        return []
    import tensorflow_datasets as tfds

    builder = tfds.builder_from_directory(home)
    labels = builder.info.features["label"], builder.info.features["layout"]
    return [from_row(_texts(row, *labels)) for row in builder.as_data_source(split=SPLIT)]


def is_tfds(directory: Path) -> bool:
    """Whether this is the folder that TFDS itself is given, with files of `write_tfds` in it."""
    return (directory / "features.json").is_file() and (directory / CHECKSUMS).is_file()


def _features(tfds: Any) -> Any:
    text = tfds.features.Text
    return tfds.features.FeaturesDict(
        {
            "id": text(),
            "prompt": tfds.features.Sequence({"role": text(), "content": text(), "reasoning": text()}),
            "reasoning": text(),
            "answer": text(),
            "layout": tfds.features.ClassLabel(names=list(LAYOUTS)),
            "label": tfds.features.ClassLabel(names=list(LABELS)),
            "prompt_id": text(),
            "source": text(),
            "category": text(),
            "style": text(),
            "base_id": text(),
            "meta": tfds.features.Sequence({"key": text(), "value": text()}),
            "recipe": text(),
            "sample": tfds.features.Scalar(np.int64),
            "generator": text(),
        }
    )


def _texts(row: dict, label: Any, layout: Any) -> dict:
    """TFDS gives texts back as bytes and classes as numbers."""
    decoded = {name: _decode(value) for name, value in row.items()}
    return decoded | {"label": label.int2str(int(row["label"])), "layout": layout.int2str(int(row["layout"]))}


def _decode(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.decode("utf-8")
    if isinstance(value, dict):
        return {name: [item.decode("utf-8") for item in items] for name, items in value.items()}
    return value
