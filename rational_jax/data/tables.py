"""Rows of datasets that others made, on the Hub or in TFDS, and the map from their columns to a prompt's fields."""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from rational_jax.config import PromptSource
from rational_jax.data.schema import PROMPT_FIELDS
from rational_jax.errors import UserError
from rational_jax.stores import first_line, trouble

HUB, TFDS = "hf:", "tfds:"


def mapped(row: Any, source: PromptSource, where: str) -> Any:
    """The row as `Prompt.from_json` reads it: columns renamed, labels translated.

    Where the source names columns, those that it does not name are left out. UserError where a column is not there or
    a label has no translation.
    """
    if not isinstance(row, Mapping):
        return row
    if source.columns:
        lacking = [column for column in source.columns.values() if column not in row]
        if lacking:
            raise UserError(f"{where}: there is no column {lacking[0]!r}; there are {', '.join(map(str, row))}")
        row = {field: row[column] for field, column in source.columns.items()}
        if any(field in row and row[field] is None for field in ("prompt", "text")):
            raise UserError(f"{where}: the prompt is empty")
        meta = {field: _plain(value) for field, value in row.items() if field not in PROMPT_FIELDS}
        row = {field: value for field, value in row.items() if field in PROMPT_FIELDS}
        row |= {"meta": {name: value for name, value in meta.items() if value is not None}}
    if source.labels and row.get("label") is not None:
        label = source.labels.get(str(row["label"]))
        if label is None:
            raise UserError(f"{where}: label {row['label']!r} is not among the labels of the source")
        row = dict(row) | {"label": label}
    return dict(row) | {"label": source.label} if source.label else row


def read_table(source: PromptSource) -> Iterator[tuple[Any, str, str]]:
    """Rows of a "hf:" or "tfds:" source, each with the place it stands at and the id it has if it names none.

    They are streamed. Where no columns are named, `id, messages, prompt, text, label, category` and the like are taken
    by their names, and of the others those that are plain values go to `meta`.
    """
    kind, name = (HUB, _hub) if source.source.startswith(HUB) else (TFDS, _tfds)
    title = source.source.removeprefix(kind)
    for number, row in enumerate(name(source, title), start=1):
        where = f"{title}:{number}"
        if not source.columns:
            extra = {key: _plain(value) for key, value in row.items() if key not in PROMPT_FIELDS}
            row = {key: value for key, value in row.items() if key in PROMPT_FIELDS}
            row["meta"] = {key: value for key, value in extra.items() if value is not None}
        found = mapped(row, source, where)
        if found.get("id") is not None:
            found = dict(found) | {"id": f"{title}:{found['id']}"}
        yield {"source": title, **found}, where, where


def _hub(source: PromptSource, repository: str) -> Iterable[Mapping]:
    import datasets  # here, because it takes seconds
    from huggingface_hub import errors

    page = f"https://huggingface.co/datasets/{repository}"
    try:
        table = datasets.load_dataset(
            repository,
            source.config,
            split=source.split or "train",
            revision=source.revision,
            streaming=True,
        )
        features = table.features or {}
        for row in table:
            yield {key: _decoded(value, features.get(key)) for key, value in row.items()}
    except datasets.exceptions.DatasetNotFoundError as error:
        if "gated" in str(error):
            raise UserError(f"{repository} is gated: ask for access at {page}, then run `hf auth login`") from error
        raise UserError(f"{' '.join(str(error).split())} ({page})") from error
    except (ConnectionError, errors.OfflineModeIsEnabled) as error:
        raise trouble(f"{repository}: the Hub cannot be reached ({page})", error) from error
    except (datasets.exceptions.DatasetsError, errors.HfHubHTTPError, RuntimeError, ValueError) as error:
        # The library's words say which configurations or splits there are, or that the dataset is a script.
        raise trouble(f"{repository}: {' '.join(str(error).split())}", error) from error


def _tfds(source: PromptSource, name: str) -> Iterable[Mapping]:
    import tensorflow_datasets as tfds

    if source.revision is not None:
        raise UserError(f"tfds:{name}: TFDS has no revisions; write the version behind the name, NAME:1.0.0")
    folder = Path(name)
    try:
        if folder.is_dir():
            builder = tfds.builder_from_directory(folder)
        else:
            builder = tfds.builder(f"{name}/{source.config}" if source.config else name, file_format="array_record")
        rows = builder.as_data_source(split=source.split or "train")
    except tfds.core.registered.DatasetNotFoundError as error:
        raise UserError(f"tfds:{name}: TFDS has no dataset of that name, and there is no such folder") from error
    except (AssertionError, FileNotFoundError, NotImplementedError, ValueError) as error:
        raise UserError(
            f"tfds:{name}: cannot be read ({first_line(error)}); it must have been prepared in the format array_record"
        ) from error
    features = dict(builder.info.features.items())
    for row in rows:
        yield {key: _decoded(value, features.get(key)) for key, value in row.items()}


def _decoded(value: Any, feature: Any) -> Any:
    """TFDS gives bytes for texts and numbers of numpy, and both libraries the number of a class for its name."""
    if isinstance(value, np.generic | np.ndarray) and np.ndim(value) == 0:
        value = value.item()
    if isinstance(value, bytes):
        return value.decode("utf-8")
    return feature.int2str(value) if hasattr(feature, "int2str") and isinstance(value, int) else value


def _plain(value: Any) -> str | None:
    """What `meta` holds of a column: a text or number as text, nothing of anything nested."""
    return str(value) if isinstance(value, str | bool | int | float) else None
