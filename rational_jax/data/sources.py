"""Prompts and rationales by the name of their source: published sets, the Hub, TFDS, files, and the packaged ones."""

import difflib
import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rational_jax.config import PromptSource
from rational_jax.data.benchmark_rows import Row
from rational_jax.data.benchmarks import ALIASES, BENCHMARKS, PAPER, Benchmark, paper_styles
from rational_jax.data.fetch import local_files, published_files
from rational_jax.data.files import READERS
from rational_jax.data.rationale_dataset import CHECKSUMS, TFDS, is_tfds, read_hf, read_tfds
from rational_jax.data.rationale_dataset.columns import from_row
from rational_jax.data.schema import LAYOUTS, Prompt, Rationale
from rational_jax.data.splits import grouped_split
from rational_jax.data.tables import HUB, mapped, read_table
from rational_jax.data.tables import TFDS as TFDS_PREFIX
from rational_jax.errors import UserError
from rational_jax.stores import local_copy

_FIELDS = ("id", "label", "source", "category", "style", "base_id")
_RATIONALE_KINDS = (".csv", ".jsonl", ".parquet")

Source = str | Path | PromptSource
Sources = Source | Sequence[Source]


def read_prompts(source: Sources, limit: int | None = None) -> list[Prompt]:
    """`iter_prompts` as a list. Raises UserError where there is no prompt at all, too."""
    prompts = list(iter_prompts(source, limit))
    if not prompts:
        raise UserError(
            f"{_shown(source)}: holds no prompt" if limit is None or limit > 0 else "curate.limit: must be at least 1"
        )
    return prompts


def iter_prompts(source: Sources, limit: int | None = None) -> Iterator[Prompt]:
    """The first `limit` prompts (or all), one at a time: what is kept in memory of each is its id and a digest.

    A source is one of these, or a `PromptSource` that names one and says more, or a list of them, read in turn:

    - a published set by name ("xstest"; see `BENCHMARKS`), or a copy of it ("xstest@PATH", a file or a folder);
      ids begin with the set's name, labels, categories, styles and base prompts are as its authors have them;
    - "hf:ORGANISATION/NAME", any dataset on the Hub, or "tfds:NAME" or "tfds:FOLDER", one of TFDS; where a later part
      of the list names another configuration or split of it, the ids of that end in "@" and their names;
    - a .jsonl, .csv, .tsv, .parquet or .txt file; a row without an id gets one from the file's name and its line, and
      each line of a .txt file that is not blank is a prompt;
    - a packaged set ("micro/sft").

    Raises UserError naming the file and line where a row is malformed, where an id comes twice, and where one text that
    is taken has two labels.
    """
    seen = _Seen()
    parts: dict[str, tuple] = {}
    count = 0
    for one in _listed(source):
        found, where = _of_source(one), one.where
        part = one.config, one.split
        if parts.setdefault(one.source, part) != part:  # its rows may be numbered as those of the first
            name = ":".join(filter(None, part)) or "default"
            found = ((replace(prompt, id=f"{prompt.id}@{name}"), f"{place} ({name})") for prompt, place in found)
        if where.get("style") == PAPER:
            found = list(found)
            where = where | {"style": paper_styles({prompt.style for prompt, _ in found})}
        # Within a source an id is one prompt's, wanted or not; several sections may divide the prompts among them.
        found = _distinct(found)
        if one.part != "all":
            found = iter(getattr(grouped_split([p for p, _ in found], seed=one.split_seed), one.part))
            found = ((prompt, prompt.id) for prompt in found)
        for prompt, place in found:
            if not _wanted(prompt, where):
                continue
            seen.check(prompt, place)
            if limit is not None and count >= limit:
                return
            count += 1
            yield prompt
            if count == limit:
                return


def digest_prompts(prompts: Iterable[Prompt]) -> str:
    """The SHA-256 of what was read, whatever file or format it came from: for manifests."""
    digest = hashlib.sha256()
    for prompt in prompts:
        digest.update(json.dumps(prompt.to_json(), sort_keys=True).encode("ascii") + b"\n")
    return digest.hexdigest()


class _Seen:
    """Ids and texts so far, in about 200 bytes a prompt."""

    def __init__(self):
        self._ids: dict[str, str] = {}
        self._labels: dict[bytes, tuple[str, str]] = {}

    def check_id(self, prompt: Prompt, where: str) -> None:
        file = where.rpartition(":")[0]
        if prompt.id in self._ids:
            before = self._ids[prompt.id]
            place = f"line {before.rpartition(':')[2]}" if file and before.rpartition(":")[0] == file else before
            raise UserError(f"{where}: id {prompt.id!r} is already that of {place}")
        self._ids[prompt.id] = where

    def check(self, prompt: Prompt, where: str) -> None:
        self.check_id(prompt, where)
        if prompt.label == "unknown":
            return
        turns = json.dumps([(turn.role, turn.content.strip()) for turn in prompt.messages])
        key = hashlib.blake2b(turns.encode("ascii"), digest_size=16).digest()
        label, before = self._labels.setdefault(key, (prompt.label, where))
        if label != prompt.label:
            raise UserError(
                f"{where}: this prompt is labelled {prompt.label}, and the same text is labelled {label} at {before}; "
                "leave one of them out or correct its label"
            )


def _distinct(found: Iterable[tuple[Prompt, str]]) -> Iterator[tuple[Prompt, str]]:
    own = _Seen()
    for prompt, where in found:
        own.check_id(prompt, where)
        yield prompt, where


def _wanted(prompt: Prompt, where: Mapping[str, Any]) -> bool:
    for field, values in where.items():
        value = getattr(prompt, field) if field in _FIELDS else prompt.meta.get(field, "")
        if value not in ((values,) if isinstance(values, str) else values):
            return False
    return True


def _listed(source: Sources) -> list[PromptSource]:
    items = [source] if isinstance(source, str | Path | PromptSource) else list(source)
    return [item if isinstance(item, PromptSource) else PromptSource(source=str(item)) for item in items]


def _shown(source: Sources) -> str:
    return ", ".join(item.source for item in _listed(source))


def _of_source(source: PromptSource) -> Iterator[tuple[Prompt, str]]:
    """The prompts with the place that each stands at."""
    name, at, path = source.source.partition("@")
    name = ALIASES.get(name, name)
    if name in BENCHMARKS:
        _refuse(source, ("config", "split", "columns", "labels"), "a published set")
        yield from _published(name, BENCHMARKS[name], source, local_copy(path) if at else None)
        return
    if source.source.startswith((HUB, TFDS_PREFIX)):
        for row, where, default_id in read_table(source):
            yield Prompt.from_json(row, where, default_id), where
        return
    _refuse(source, ("config", "split", "revision"), "a file")
    path = prompt_file(source.source)
    for number, row in READERS[path.suffix](path):
        where, default_id = f"{path}:{number}", f"{path.stem}:{number}"
        yield Prompt.from_json(mapped(row, source, where), where, default_id), where


def _published(
    name: str, benchmark: Benchmark, source: PromptSource, path: Path | None
) -> Iterator[tuple[Prompt, str]]:
    if path is None:
        files = published_files(name, benchmark, source.revision)
    else:
        files = local_files(name, benchmark, path)
    for file in files:
        reader = READERS[".txt"] if benchmark.as_lines else READERS.get(file.suffix)
        if reader is None:
            raise UserError(f"{name}@{file}: its files are called {' or '.join(benchmark.files)}")
        for number, (line, values) in enumerate(reader(file), start=1):
            row = Row(values, name, file, number, f"{file}:{line}")
            for fields in benchmark.rows(row):
                fields = {"source": name, **fields, "id": f"{name}:{fields['id']}"}
                if fields.get("base_id"):
                    fields["base_id"] = f"{name}:{fields['base_id']}"
                if source.label:
                    fields["label"] = source.label
                yield Prompt.from_json(fields, row.where), row.where


def _refuse(source: PromptSource, keys: Sequence[str], kind: str) -> None:
    for key in keys:
        if getattr(source, key):
            raise UserError(f"{source.source}: is {kind}, so `{key}` says nothing about it; leave it out")


def prompt_file(source: str | Path) -> Path:
    """The file behind a packaged set or a path; UserError where there is none or its kind is not known.

    Other sources are no single file: what was read of any source is known by `digest_prompts`.
    """
    path = local_copy(source)
    sets = packaged()
    if str(source) in sets:
        return sets[str(source)]
    if not path.suffix and not path.exists():
        raise UserError(f"{source}: no such prompt set or file; {_advice(str(source), sets)}")
    if not path.is_file():
        raise UserError(f"{path}: no such prompt file")
    if path.suffix not in READERS:
        raise UserError(f"{path}: prompts are read from {', '.join(sorted(READERS))} files")
    return path


def _advice(name: str, sets: Iterable[str]) -> str:
    known = sorted([*sets, *BENCHMARKS, *ALIASES])
    if close := difflib.get_close_matches(name, known, n=1, cutoff=0.75):
        return f"did you mean {close[0]}?"
    hub = f", and a dataset on the Hub is hf:{name}" if re.fullmatch(r"[\w.-]+/[\w.-]+", name) else ""
    return f"the sets are {', '.join(known)}{hub}"


def packaged() -> dict[str, Path]:
    """The file of each packaged set by the set's name."""
    folder = Path(__file__).resolve().parent.parent / "micro" / "prompts"
    return {f"micro/{file.stem}": file for file in folder.glob("*.jsonl")}


def read_rationales(source: str | Path) -> list[Rationale]:
    """The rationales in a .jsonl, .csv or .parquet file or in a folder.

    The folder is what `write_tfds` left (or the one of the version in it) or `write_hf`, or `datasets.save_to_disk`
    (its train split, if it has splits), or holds .jsonl, .csv and .parquet files, which are read in the order of their
    names. A row is what `Rationale.to_json` or `write_hf` makes of a rationale, or a prompt as in `read_prompts` with
    an `answer` and, perhaps, a `reasoning`. Such a row is of layout "rational" with reasoning and "refusal" without.

    Raises UserError naming file and line where a row is malformed, and where there is no rationale at all.
    """
    path = local_copy(source)
    if (path / TFDS).is_dir() or is_tfds(path):
        found = read_tfds(path)
    elif (path / CHECKSUMS).is_file():
        found = read_hf(path)
    else:
        found = [_rationale(row, where, default_id) for row, where, default_id in _rationale_rows(path)]
    if not found:
        raise UserError(f"{path}: holds no rationale")
    return found


def _rationale(row: Any, where: str, default_id: str) -> Rationale:
    if not isinstance(row, dict):
        raise UserError(f"{where}: expected an object with fields")
    # A row of `to_row` has turns, which TFDS makes a dict of lists; in other tables with these columns it is a text.
    turns = row.get("prompt")
    has_turns = isinstance(turns, list) or (isinstance(turns, dict) and "role" in turns)
    if has_turns and {"prompt_id", "layout"} <= row.keys():
        try:
            return from_row(row)
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(
                f"{where}: has prompt_id, layout and a list of turns as curated rows do, and is none "
                f"({type(error).__name__}: {error}); take it as it was written, or give `messages` and no prompt_id"
            ) from error
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
    kinds = _RATIONALE_KINDS
    files = sorted(file for file in path.rglob("*") if file.suffix in kinds) if path.is_dir() else [path]
    if not path.exists():
        raise UserError(f"{path}: no such file or folder")
    if not files or files[0].suffix not in kinds:
        raise UserError(f"{path}: rationales are read from {', '.join(kinds)} files and from folders of them")
    for file in files:
        for number, row in READERS[file.suffix](file):
            yield row, f"{file}:{number}", f"{file.stem}:{number}"
