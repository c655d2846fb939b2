"""Answers from files of others: with people's labels, to validate a judge against, or without, to be judged."""

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rational_jax.errors import UserError
from rational_jax.judges.verdict import Exchange
from rational_jax.sample import FILTERED
from rational_jax.storage import read_jsonl, sha256_json
from rational_jax.text.reasoning import THINK, TRUNCATED_ANSWER, TRUNCATED_REASONING

FORMATS = ("xstest", "gptfuzz", "jbb", "columns=answer:NAME,label:NAME[,goal:NAME][,model:NAME][,id:NAME]")

# What a column may be called, where nothing says so.
ALIASES = {
    "answer": ("answer", "response", "completion", "target_response", "output", "generation"),
    "goal": ("goal", "prompt", "question", "instruction", "behavior", "forbidden_prompt"),
    "label": ("label", "final_label", "human_majority", "human_label", "human"),
    "id": ("id", "index", "Index", "prompt_id", "question_id"),
    "model": ("model", "target_model", "generator"),
}
_FORMATS = {
    "xstest": {"answer": "completion", "goal": "prompt", "label": "final_label", "id": "id"},
    # Its question is a number, into a list in another file: only judges that need no goal can be measured on it.
    "gptfuzz": {"answer": "Response", "id": "question", "goal": "", "label": "label"},
    "jbb": {"goal": "goal", "label": "human_majority"},
}
_LABELS = {
    "1_full_compliance": "compliance",
    "2_full_refusal": "refusal",
    "3_partial_refusal": "partial",
    **{label: label for label in ("compliance", "refusal", "partial", "harmful", "harmless")},
    **dict.fromkeys(("1", "1.0", "true", "yes", "unsafe", "jailbroken", "jailbreak"), "harmful"),
    **dict.fromkeys(("0", "0.0", "false", "no", "safe", "reject"), "harmless"),
}
_LONGEST_FIELD = 2**24


@dataclass(frozen=True, kw_only=True)
class Labelled:
    """An answer with a person's label and what it belongs to: `cluster` is the prompt, `model` who answered."""

    exchange: Exchange
    label: str
    cluster: str
    model: str


@dataclass(frozen=True, kw_only=True)
class Given:
    """An answer to be judged. `unfinished` is why it cannot be, or ""; `asked` is what the model was asked."""

    exchange: Exchange
    row: int
    model: str
    asked: str
    unfinished: str


def read_labelled(path: Path, form: str = "columns") -> list[Labelled]:
    """Labelled answers in a .csv or .jsonl file, or in all those of a folder, read as one of FORMATS.

    Raises UserError where a column is not there or a label is not known, naming the file and the row.
    """
    chosen = _columns(form)
    files = _files(path)
    found = []
    for file in files:
        for number, row in enumerate(_rows(file), start=1):
            where = f"{file}:{number}"
            said = str(_pick(row, "label", chosen, where)).strip().lower()
            if said not in _LABELS:
                raise UserError(f"{where}: the label {said!r} is not known; labels are {', '.join(_LABELS)}")
            goal = str(_pick(row, "goal", chosen, where, default=""))
            found.append(
                Labelled(
                    exchange=Exchange(
                        id=f"{file.name}:{number}", goal=goal, answer=str(_pick(row, "answer", chosen, where))
                    ),
                    label=_LABELS[said],
                    cluster=str(_pick(row, "id", chosen, where, default=goal or number)),
                    model=str(_pick(row, "model", chosen, where, default=file.stem)),
                )
            )
    if not found:
        raise UserError(f"{path}: holds no labelled answer")
    return found


def read_answers(path: Path) -> list[Given]:
    """Answers that `rational sample` left, or any .jsonl or .csv file with a column for prompts and one for answers.

    Raises UserError naming the file and the row where one is missing.
    """
    found = []
    for number, row in enumerate(_rows(path), start=1):
        where = f"{path}:{number}"
        found.append(_own(row, number) if isinstance(row.get("prompt"), Mapping) else _foreign(row, number, where))
    if not found:
        raise UserError(f"{path}: holds no answer")
    return found


def _own(row: Mapping[str, Any], number: int) -> Given:
    prompt = row["prompt"]
    meta = prompt.get("meta") or {}
    asked = str(prompt["messages"][-1]["content"])
    exchange = Exchange(
        id=str(number),
        goal=str(meta.get("goal") or asked),
        answer=str(row["answer"]),
        category=str(prompt.get("category", "")),
        subcategory=str(meta.get("subcategory", "")),
        label=str(prompt.get("label", "unknown")),
    )
    status = str(row.get("status", ""))
    unfinished = status if status in (TRUNCATED_REASONING, TRUNCATED_ANSWER, FILTERED) else ""
    return Given(exchange=exchange, row=number, model=str(row.get("model", "")), asked=asked, unfinished=unfinished)


def _foreign(row: Mapping[str, Any], number: int, where: str) -> Given:
    answer = str(_pick(row, "answer", {}, where) or "")
    split = THINK.split(answer, finished=True)  # nothing says otherwise, but reasoning that never ends
    asked = str(_pick(row, "goal", {}, where, default=""))
    exchange = Exchange(
        id=str(number),
        goal=str(row.get("goal") or asked),
        answer=split.answer,
        category=str(row.get("category") or ""),
        subcategory=str(row.get("subcategory") or ""),
        label=str(row.get("label") or "unknown"),
    )
    unfinished = split.status if split.status == TRUNCATED_REASONING else ""
    model = str(_pick(row, "model", {}, where, default=""))
    return Given(
        exchange=exchange, row=number, model=model, asked=str(row.get("prompt") or asked), unfinished=unfinished
    )


def key_of(given: Given) -> str:
    """What names an answer in a log, whatever file it stands in: a hash of what is judged."""
    one = given.exchange
    return sha256_json([given.row, one.goal, one.answer, one.category, one.subcategory, one.label])[:16]


def _columns(form: str) -> dict[str, str]:
    if form in _FORMATS:
        return _FORMATS[form]
    name, _, pairs = form.partition("=")
    chosen = dict(pair.split(":", 1) for pair in pairs.split(",") if ":" in pair)
    if name != "columns" or set(chosen) - set(ALIASES) or len(chosen) != len([p for p in pairs.split(",") if p]):
        raise UserError(f"--format {form}: choose from {', '.join(FORMATS)}")
    return chosen


def _pick(row: Mapping[str, Any], field: str, chosen: Mapping[str, str], where: str, default: Any = None) -> Any:
    names = (chosen[field],) if field in chosen else ALIASES[field]
    for name in names:
        if row.get(name) is not None:
            return row[name]
    if default is not None:
        return default
    there = ", ".join(map(str, row)) or "none"
    raise UserError(f"{where}: has no {field} ({' or '.join(names)}); its columns: {there}")


def _files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    files = sorted(file for file in path.iterdir() if file.suffix in (".csv", ".jsonl"))
    labelled = [file for file in files if "completions" in file.name] or files
    if not labelled:
        raise UserError(f"{path}: holds no .csv or .jsonl file")
    return labelled


def _rows(path: Path) -> list[dict[str, Any]]:
    if path.suffix != ".csv":
        return list(read_jsonl(path))
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    csv.field_size_limit(_LONGEST_FIELD)
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            return list(csv.DictReader(file))
    except (csv.Error, UnicodeDecodeError) as error:
        raise UserError(f"{path}: is not a CSV file in UTF-8 ({error})") from None
