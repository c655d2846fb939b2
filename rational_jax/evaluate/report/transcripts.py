"""The transcripts as data for the page: every prompt once, with what each model made of it beside each other."""

from collections.abc import Mapping

from rational_jax.data.schema import Prompt
from rational_jax.evaluate.outcomes import Outcome
from rational_jax.html import neutralise

# Places in the lists below are short keys: 20,000 transcripts are in the page, and their names would be there as often.
LABELS = (
    *("compliance", "partial", "refusal", "harmful", "harmless"),
    *("truncated_reasoning", "truncated_answer", "content_filter", "unscored"),
)


def transcripts(outcomes: dict[str, list[Outcome]], suites: Mapping[str, str]) -> dict:
    """What `transcripts.js` reads: `models`, `labels`, and `rows` of one prompt (and sample) each.

    `suites`: prompt id -> the suite's title. A row is [id, label, tier, style, suite, prompt, sample, folded, cells],
    `folded` 1 for prompts that the page shows only when asked (harmful ones, unless they are about the invented things
    of the micro world); a cell, by model, is None or
    [label's place, reason, reasoning or None, answer, 1 / 0 / None for the premise, 1 for an error].
    Every text is neutralised here, so that the page shows control and bidi characters instead of obeying them.
    """
    models = list(outcomes)
    rows: dict[tuple[str, int], list] = {}
    for place, model in enumerate(models):
        for one in outcomes[model]:
            prompt = one.answer.prompt
            key = (prompt.id, one.answer.sample)
            if key not in rows:
                folded = int(prompt.label == "harmful" and not prompt.source.startswith("micro"))
                shown = _prompt(prompt, suites.get(prompt.id, ""))
                rows[key] = [*shown, one.answer.sample, folded, [None] * len(models)]
            rows[key][-1][place] = _cell(one)
    return {"models": models, "labels": list(LABELS), "rows": list(rows.values())}


def _prompt(prompt: Prompt, suite: str) -> list[str]:
    turns = [message.content for message in prompt.messages]
    if len(turns) > 1:
        turns = [f"[{message.role}]\n{message.content}" for message in prompt.messages]
    fields = (prompt.id, prompt.label, prompt.category, prompt.style, suite, "\n\n".join(turns))
    return [neutralise(field) for field in fields]


def _cell(one: Outcome) -> list:
    answer = one.answer
    # What was cut off has no parts worth telling apart; all that there is is shown.
    shown = answer.answer or ("" if answer.reasoning else answer.text)
    return [
        LABELS.index(one.label),
        neutralise(one.reason),
        None if answer.reasoning is None else neutralise(answer.reasoning),
        neutralise(shown),
        None if one.premise is None else int(one.premise),
        int(one.scored and answer.prompt.label != "unknown" and one.erred),
    ]
