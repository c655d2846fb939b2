"""Prompts from files: the packaged ones and a user's own."""

import csv
import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet

from rational_jax.data.schema import Prompt
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
