"""Prompts and rationales from files: the packaged ones and a user's own."""

import csv
import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet

from rational_jax.data.rationale_dataset import CHECKSUMS, TFDS, read_hf, read_tfds
from rational_jax.data.rationale_dataset.columns import from_row
from rational_jax.data.schema import LAYOUTS, Prompt, Rationale
from rational_jax.errors import UserError

_BOM = b"\xef\xbb\xbf"


def read_prompts(source: str | Path, limit: int | None = None) -> list[Prompt]:
    """The first `limit` prompts (or all) of a packaged set ("micro/sft") or of a .jsonl, .csv, .parquet or .txt file.

    A row without an id gets one from the file's name and its line. In a .txt file each line that is not blank is a
    prompt.

    Raises UserError naming file and line where a row is malformed or repeats an id, and where there is no prompt at
    all.
    """
    path = prompt_file(source)
    seen: dict[str, str] = {}
    prompts: list[Prompt] = []
    for number, row in itertools.islice(_READERS[path.suffix](path), limit):
        where = f"{path}:{number}"
        prompt = Prompt.from_json(row, where, default_id=f"{path.stem}:{number}")
        if prompt.id in seen:
            raise UserError(f"{where}: id {prompt.id!r} is already that of line {seen[prompt.id]}")
        seen[prompt.id] = str(number)
        prompts.append(prompt)
    if not prompts:
        raise UserError(
            f"{path}: holds no prompt" if limit is None or limit > 0 else "curate.limit: must be at least 1"
        )
    return prompts


def read_rationales(source: str | Path) -> list[Rationale]:
    """The rationales in a .jsonl, .csv or .parquet file or in a folder.

    The folder is what `write_tfds` or `write_hf` left, or `datasets.save_to_disk` (its train split, if it has splits),
    or holds .jsonl, .csv and .parquet files, which are read in the order of their names. A row is what
    `Rationale.to_json` or `write_hf` makes of a rationale, or a prompt as in `read_prompts` with an `answer` and,
    perhaps, a `reasoning`. Such a row is of layout "rational" with reasoning and "refusal" without.

    Raises UserError naming file and line where a row is malformed, and where there is no rationale at all.
    """
    path = Path(source)
    if (path / TFDS).is_dir():
        return read_tfds(path)
    if (path / CHECKSUMS).is_file():
        return read_hf(path)
    found = [_rationale(row, where, default_id) for row, where, default_id in _rationale_rows(path)]
    if not found:
        raise UserError(f"{path}: holds no rationale")
    return found


def _rationale(row: Any, where: str, default_id: str) -> Rationale:
    if not isinstance(row, dict):
        raise UserError(f"{where}: expected an object with fields")
    if {"prompt_id", "layout", "prompt"} <= row.keys():
        return from_row(row)
    if isinstance(row.get("prompt"), dict):
        return Rationale.from_json(row, where)
    parts = {name: row.get(name) or "" for name in ("reasoning", "answer")}
    if not all(isinstance(text, str) for text in parts.values()) or not parts["answer"]:
        raise UserError(f"{where}: a rationale needs an answer, and its answer and reasoning are texts")
    layout = row.get("layout") or ("rational" if parts["reasoning"] else "refusal")
    if layout not in LAYOUTS:
        raise UserError(f"{where}: layout {layout!r} is not one of {', '.join(LAYOUTS)}")
    rest = {key: value for key, value in row.items() if key not in (*parts, "layout")}
    prompt = Prompt.from_json(rest, where, default_id)
    return Rationale(id=prompt.id, prompt=prompt, layout=layout, **parts)


def _rationale_rows(path: Path) -> Iterator[tuple[Any, str, str]]:
    """Rows with the place that each stands at and the id it has if it names none."""
    if (path / "dataset_info.json").is_file() or (path / "dataset_dict.json").is_file():
        import datasets  # here, because it takes seconds

        try:
            loaded = datasets.load_from_disk(str(path))
        except (OSError, ValueError) as error:
            raise UserError(f"{path}: not a readable dataset of `datasets` ({error})") from error
        if isinstance(loaded, datasets.DatasetDict):
            if "train" not in loaded:
                raise UserError(f"{path}: has no split called train, but {', '.join(loaded)}")
            loaded = loaded["train"]
        for number, row in enumerate(loaded, start=1):
            yield row, f"{path}:{number}", f"{path.name}:{number}"
        return
    kinds = (".csv", ".jsonl", ".parquet")
    files = sorted(file for file in path.rglob("*") if file.suffix in kinds) if path.is_dir() else [path]
    if not path.exists():
        raise UserError(f"{path}: no such file or folder")
    if not files or files[0].suffix not in kinds:
        raise UserError(f"{path}: rationales are read from {', '.join(kinds)} files and from folders of them")
    for file in files:
        for number, row in _READERS[file.suffix](file):
            yield row, f"{file}:{number}", f"{file.stem}:{number}"


def prompt_file(source: str | Path) -> Path:
    """The file behind a source; UserError where there is none or its kind is not known."""
    path = Path(source)
    if not path.suffix:
        packaged = _packaged()
        if str(source) in packaged:
            return packaged[str(source)]
        if not path.exists():
            known = ", ".join(sorted(packaged)) or "none"
            raise UserError(f"{source}: no such prompt set (packaged: {known}) and no such file")
    if not path.is_file():
        raise UserError(f"{path}: no such prompt file")
    if path.suffix not in _READERS:
        raise UserError(f"{path}: prompts are read from {', '.join(sorted(_READERS))} files")
    return path


def _packaged() -> dict[str, Path]:
    folder = Path(__file__).resolve().parent.parent / "micro" / "prompts"
    return {f"micro/{file.stem}": file for file in folder.glob("*.jsonl")}


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Numbered lines without their ends: LF or CR LF. Other separators of Unicode are part of a prompt."""
    with path.open("rb") as file:
        for number, raw in enumerate(file, start=1):
            if number == 1:
                raw = raw.removeprefix(_BOM)
            try:
                line = raw.decode("utf-8")
            except UnicodeDecodeError as error:
                raise UserError(f"{path}:{number}: not UTF-8 text (byte {error.start + 1} of the line)") from error
            yield number, line.rstrip("\r\n")


def _jsonl(path: Path) -> Iterator[tuple[int, Any]]:
    for number, line in _lines(path):
        if not line.strip():
            continue
        try:
            yield number, json.loads(line)
        except json.JSONDecodeError as error:
            raise UserError(f"{path}:{number}: not valid JSON ({error.msg} at column {error.colno})") from error
        except (ValueError, RecursionError) as error:  # a number of thousands of digits; brackets thousands deep
            raise UserError(f"{path}:{number}: JSON that cannot be read ({error})") from error


def _text(path: Path) -> Iterator[tuple[int, Any]]:
    for number, line in _lines(path):
        if line.strip():
            yield number, {"text": line.strip()}


def _csv(path: Path) -> Iterator[tuple[int, Any]]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, strict=True)
            for row in reader:
                if None in row or None in row.values():
                    raise UserError(f"{path}:{reader.line_num}: the row has not as many columns as the header")
                # An empty cell says nothing.
                yield (
                    reader.line_num,
                    {name: value for name, value in row.items() if value or name in ("prompt", "text")},
                )
    except (csv.Error, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not a CSV file in UTF-8 ({error})") from error


def _parquet(path: Path) -> Iterator[tuple[int, Any]]:
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            rows = (row for batch in file.iter_batches() for row in batch.to_pylist())
            yield from enumerate(rows, start=1)
    except (pyarrow.ArrowException, OSError) as error:
        raise UserError(f"{path}: not a readable Parquet file ({error})") from error


_READERS = {".jsonl": _jsonl, ".csv": _csv, ".parquet": _parquet, ".txt": _text}
