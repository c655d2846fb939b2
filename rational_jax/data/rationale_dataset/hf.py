"""The Hugging Face `datasets` format: Parquet shards and a dataset card.

`datasets.load_dataset(<directory>)` reads it.
"""

import collections
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

import pyarrow
import pyarrow.parquet

from rational_jax.data.rationale_dataset.checksums import verify_checksums, write_checksums
from rational_jax.data.rationale_dataset.columns import from_row, to_row
from rational_jax.data.schema import Rationale
from rational_jax.storage import atomic_directory, atomic_write_text

_SHARD_EXAMPLES = 10_000
_TEXT = pyarrow.string()
_SCHEMA = pyarrow.schema(
    {
        "id": _TEXT,
        "prompt": pyarrow.list_(pyarrow.struct({"role": _TEXT, "content": _TEXT, "reasoning": _TEXT})),
        "reasoning": _TEXT,
        "answer": _TEXT,
        "layout": _TEXT,
        "label": _TEXT,
        "prompt_id": _TEXT,
        "source": _TEXT,
        "category": _TEXT,
        "style": _TEXT,
        "base_id": _TEXT,
        "meta": pyarrow.list_(pyarrow.struct({"key": _TEXT, "value": _TEXT})),
        "recipe": _TEXT,
        "sample": pyarrow.int64(),
        "generator": _TEXT,
    }
)


def write_hf(
    rationales: Sequence[Rationale],
    directory: str | Path,
    title: str = "Rationales",
    about: str = "",
    funnel: Mapping[str, int] | None = None,
) -> None:
    """Writes the rationales in their order to `<directory>/data/train-*.parquet` with a card; whole or not at all.

    `title` and `about` head the card, and `funnel` (what happened -> how many samples) is a table in it.
    """
    rationales = list(rationales)
    shards = [rationales[i : i + _SHARD_EXAMPLES] for i in range(0, len(rationales), _SHARD_EXAMPLES)] or [[]]
    with atomic_directory(directory) as partial:
        (partial / "data").mkdir()
        for number, shard in enumerate(shards):
            table = pyarrow.Table.from_pylist([to_row(rationale) for rationale in shard], schema=_SCHEMA)
            pyarrow.parquet.write_table(
                table, partial / "data" / f"train-{number:05d}-of-{len(shards):05d}.parquet", compression="zstd"
            )
        atomic_write_text(partial / "README.md", dataset_card(rationales, title, about, funnel))
        write_checksums(partial, rationales)


def read_hf(directory: str | Path) -> list[Rationale]:
    """What `write_hf` wrote, in its order. UserError naming the file where one is missing, cut short or changed."""
    directory = Path(directory)
    names = sorted(name for name in verify_checksums(directory)["files"] if name.endswith(".parquet"))
    rows = (row for name in names for row in pyarrow.parquet.read_table(directory / name).to_pylist())
    return [from_row(row) for row in rows]


def dataset_card(
    rationales: Sequence[Rationale], title: str, about: str = "", funnel: Mapping[str, int] | None = None
) -> str:
    """The README of the dataset: what it holds, how much of what, and what was filtered on the way. Markdown."""
    lines = [
        "---",
        "configs:",
        "- config_name: default",
        "  data_files:",
        "  - split: train",
        "    path: data/train-*.parquet",
        "tags:",
        "- safety",
        "- reasoning",
        "---",
        "",
        f"# {title}",
        "",
        f"{len(rationales)} examples: prompts with the reasoning and the answer that a model wrote for them.",
        "Written by `rational curate`. A row holds the `prompt` (turns), `reasoning` and `answer`; `layout` says how",
        "they are put together for training, `prompt_id`, `source` and `sample` where they come from.",
        "",
    ]
    lines += [about, ""] if about else []
    lines += _counts("Label", [rationale.prompt.label for rationale in rationales])
    lines += _counts("Category", [rationale.prompt.category for rationale in rationales])
    lines += _counts("Style", [rationale.prompt.style for rationale in rationales])
    lines += _counts("Source", [rationale.prompt.source for rationale in rationales])
    lines += _lengths(rationales)
    if funnel:
        lines += _table("Funnel", ("Samples", "Count"), list(funnel.items()))
    return "\n".join(lines)


def _counts(name: str, values: Sequence[str]) -> list[str]:
    if not any(values):
        return []
    counts = collections.Counter(value or "(none)" for value in values)
    rows = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return _table(name, (name, "Examples"), rows)


def _lengths(rationales: Sequence[Rationale]) -> list[str]:
    if not rationales:
        return []
    rows = []
    for part in ("reasoning", "answer"):
        words = [len(getattr(rationale, part).split()) for rationale in rationales]
        rows.append((part, min(words), round(statistics.median(words)), max(words)))
    return _table("Length in words", ("Part", "Least", "Median", "Most"), rows)


def _table(title: str, head: Sequence[str], rows: Sequence[Sequence]) -> list[str]:
    def line(cells: Sequence) -> str:
        return "| " + " | ".join(str(cell).replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"

    return [f"## {title}", "", line(head), line(["---"] * len(head)), *map(line, rows), ""]
