"""One rationale as one flat row: what both formats store. Maps become lists of pairs, and None an empty text."""

from collections.abc import Mapping, Sequence
from typing import Any

from rational_jax.data.schema import Prompt, Rationale
from rational_jax.text.chat import Message


def to_row(rationale: Rationale) -> dict[str, Any]:
    """The row: texts, `sample` as an integer, `prompt` as a list of turns, `meta` as a list of key and value."""
    prompt = rationale.prompt
    return {
        "id": rationale.id,
        "prompt": [
            {"role": turn.role, "content": turn.content, "reasoning": turn.reasoning or ""} for turn in prompt.messages
        ],
        "reasoning": rationale.reasoning,
        "answer": rationale.answer,
        "layout": rationale.layout,
        "label": prompt.label,
        "prompt_id": prompt.id,
        "source": prompt.source,
        "category": prompt.category,
        "style": prompt.style,
        "base_id": prompt.base_id,
        "meta": [{"key": key, "value": value} for key, value in prompt.meta.items()],
        "recipe": rationale.recipe,
        "sample": rationale.sample,
        "generator": rationale.generator,
    }


def from_row(row: Mapping[str, Any]) -> Rationale:
    """The rationale that `to_row` made a row of."""
    prompt = Prompt(
        id=row["prompt_id"],
        messages=tuple(
            Message(role=turn["role"], content=turn["content"], reasoning=turn["reasoning"] or None)
            for turn in _turns(row["prompt"])
        ),
        label=row["label"],
        source=row["source"],
        category=row["category"],
        style=row["style"],
        base_id=row["base_id"],
        meta={pair["key"]: pair["value"] for pair in _turns(row["meta"])},
    )
    return Rationale(
        id=row["id"],
        prompt=prompt,
        reasoning=row["reasoning"],
        answer=row["answer"],
        recipe=row["recipe"],
        layout=row["layout"],
        sample=int(row["sample"]),
        generator=row["generator"],
    )


def _turns(value: Mapping[str, Sequence] | Sequence[Mapping]) -> Sequence[Mapping]:
    # TFDS gives a sequence of dicts back as a dict of sequences.
    if isinstance(value, Mapping):
        return [dict(zip(value, items, strict=True)) for items in zip(*value.values(), strict=True)]
    return value
