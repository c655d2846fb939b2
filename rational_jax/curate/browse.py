"""One self-contained page to read what a run wrote: kept rationales and rejected samples, side by side with why."""

import collections
import itertools
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from rational_jax.curate.funnel import Funnel
from rational_jax.curate.run import FUNNEL, REJECTED
from rational_jax.data.rationale_dataset import read_hf
from rational_jax.errors import UserError
from rational_jax.html import Page, environment, neutralise, render
from rational_jax.judges import RefusalJudge
from rational_jax.manifest import read_stage
from rational_jax.storage import atomic_write_text, read_jsonl

PAGE = "browse/index.html"
MOST = 5000
KEPT = "kept"
_ROOM = Path(__file__).parent / "templates"


def browse(run: str | Path, most: int = MOST) -> Path:
    """Writes `<run>/browse/index.html` and returns its path. Raises UserError where nothing has been curated there.

    At most `most` kept and as many rejected samples are in the page, evenly from all of them, and it says so. It is a
    pure function of the run's files.
    """
    folder = Path(run) / "curate"
    manifest = read_stage(folder, verb="curate")
    layouts = [layout for layout in manifest["settings"]["curate"]["datasets"] if (folder / layout).is_dir()]
    funnel = Funnel.from_json(json.loads((folder / FUNNEL).read_text("utf-8")))
    judge = RefusalJudge()
    kept = read_hf(folder / layouts[0] / "dataset") if layouts else []
    judged = ((one, judge.judge(one.answer, one.prompt.goal).label) for one in _evenly(kept, len(kept), most))
    rows = [
        _row(one.prompt.to_json(), one.sample, label, KEPT, "", one.reasoning, one.answer) for one, label in judged
    ]
    rejected = sum(funnel.rejected.values())
    for one in _evenly(read_jsonl(folder / REJECTED), rejected, most):
        parts = one["reasoning"] or "", one["answer"] or one["text"]
        rows.append(_row(one["prompt"], one["sample"], one["verdict"], one["reason"], one["detail"], *parts))
    path = Path(run) / PAGE
    shown = collections.Counter("kept" if row[7] == KEPT else "rejected" for row in rows)
    env = environment(_ROOM)
    page = render(
        env,
        "browse.html",
        Page(
            title="What was curated",
            scripts=((_ROOM / "browse.js").read_text("utf-8"),),
            styles=((_ROOM / "browse.css").read_text("utf-8"),),
        ),
        funnel=funnel,
        shown=shown,
        rejected=rejected,
        settings=manifest["settings"],
        layout=layouts[0] if layouts else "none",
        samples={"rows": rows},
    )
    atomic_write_text(path, page)
    return path


def _evenly(items: Iterable[Any], count: int, most: int) -> Iterable[Any]:
    """At most `most` of `count` items, in their order and at even distances."""
    if most < 1:
        raise UserError(f"--most {most}: must be at least 1")
    if count <= most:
        return items
    chosen = {place * count // most for place in range(most)}
    return itertools.compress(items, (place in chosen for place in range(count)))


def _row(
    prompt: dict, sample: int, verdict: str, reason: str, detail: str, reasoning: str, answer: str
) -> Sequence[str | int]:
    """What browse.js reads: [id, label, category, style, source, sample, verdict, reason, detail, prompt, ...].

    Every text is neutralised here, so that the page shows control and bidi characters instead of obeying them.
    """
    turns = prompt["messages"]
    asked = turns[0]["content"]
    if len(turns) > 1:
        asked = "\n\n".join(f"[{turn['role']}]\n{turn['content']}" for turn in turns)
    texts = [prompt[name] for name in ("id", "label", "category", "style", "source")]
    before, after = map(neutralise, texts), map(neutralise, (verdict, reason, detail, asked, reasoning, answer))
    return [*before, sample, *after]
