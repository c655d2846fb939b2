"""The README.md of an exported model, filled from manifests alone, so that equal runs get equal cards."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from rational_jax.config import CIRCUIT_BREAKER

_CARD = """\
---
{front_matter}
---

# {title}

{what} made with rational_jax by {how}. It is the arm `{arm}` of its run.

- **Base**: {base}
- **Check**: {checked}
- **Licence and limits**: those of the base. What changed in its behaviour has to be read in the run's report; an
  exported model is not by itself evidence of safety.

## Use

```python
{usage}
```

{reasoning}

## How it was trained

| setting | value |
|---|---|
{settings}

`manifest.json` beside this file names the exact base files and training run, and the SHA-256 of every file here.
"""

_USAGE = {
    "merged": """\
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained("path/to/this/directory")
tokenizer = AutoTokenizer.from_pretrained("path/to/this/directory")""",
    "adapter": """\
from peft import PeftModel
from transformers import AutoModelForCausalLM

base = AutoModelForCausalLM.from_pretrained({base})
model = PeftModel.from_pretrained(base, "path/to/this/directory")""",
}


# Settings that name a file or a folder, and what else looks like one.
_PATHS = ("train.data", "train.circuit_breaker.reroute", "train.circuit_breaker.retain")
_PLACE = re.compile(r"[/~.\\]|[A-Za-z]:\\|[a-z0-9]+://")


_TUNED = "supervised fine-tuning on texts that the base model wrote itself"
_REROUTED = "representation rerouting (circuit breakers, arXiv 2406.04313), which breaks off answers like harmful ones"


def model_card(
    part: str, *, arm: str, model: str, base: Mapping[str, Any], train: Mapping[str, Any], checked: str
) -> str:
    """The card of a "merged" model or an "adapter".

    `model` is the base as the configuration names it, `base` its identity (`hub.identity`), `train` the manifest of the
    finished training stage, and `checked` says how the export was verified.
    """
    settings, local = train["settings"], base["revision"] is None
    tags = ["rational-jax", "safety", "reasoning"] + (["lora"] if part == "adapter" else [])
    front = [f"library_name: {'peft' if part == 'adapter' else 'transformers'}", "pipeline_tag: text-generation"]
    front += ["tags:", *(f"- {tag}" for tag in tags)]
    # Only a model from the Hub, which has a commit, can be named as a base there.
    if base["revision"] is not None:
        front.insert(0, f"base_model: {base['name']}")
    return _CARD.format(
        front_matter="\n".join(front),
        title=f"{base['name']}, {arm}" + (" (LoRA adapter)" if part == "adapter" else ""),
        what="A LoRA adapter" if part == "adapter" else "A language model",
        how=_REROUTED if arm == CIRCUIT_BREAKER else _TUNED,
        arm=arm,
        base=f"`{base['name']}`" + (f" at commit `{base['revision']}`" if base["revision"] else ""),
        checked=checked,
        usage=_USAGE[part].format(base=json.dumps(f"path/to/{base['name']}" if local else model)),
        reasoning="It was not taught to reason." if arm == CIRCUIT_BREAKER else _reasoning(settings),
        settings="\n".join(f"| `{name}` | {_cell(_public(name, value, local))} |" for name, value in _flat(settings)),
    )


def _reasoning(settings: Mapping[str, Any]) -> str:
    if settings.get("chat", {}).get("reasoning") == "think":
        return "The model writes its reasoning between `<think>` and `</think>`, then a blank line, then the answer."
    return "The model writes its reasoning as plain text, then a blank line, then the answer."


def _flat(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in settings.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _public(name: str, value: Any, local: bool) -> Any:
    """Of a file, a folder or an address the last part alone: where it lay is nobody else's business."""
    if isinstance(value, str) and (name in _PATHS or (local and name == "model.name") or _PLACE.match(value)):
        return re.split(r"[/\\]", value.rstrip("/\\"))[-1]
    return value


def _cell(value: Any) -> str:
    return str(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)).replace("|", "\\|")
