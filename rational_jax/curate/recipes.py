"""Recipes: how a model is asked to reason, as small YAML files with Jinja templates.

    name: my-recipe
    description: What it is for.
    system:                 # one neutral system prompt, or one for each label (the label must then be known);
      neutral: Think it through before you answer.    # null asks with no system prompt at all
    policies: policies.yaml # optional: texts by category, for {{ policy }} in a template; beside the recipe
    reasoning: required     # or optional, or none: what a sample must have besides its answer
    samples: 4              # of each prompt; what the configuration says goes before this and the next two
    keep: 1                 # of these, at most
    decontaminate: remove   # or report, or off: what becomes of prompts that are in a suite of sample.suites too
    filters: [format]       # which filters decide what is kept; all of them where it is left out

A template may use `prompt` (the user's last turn), `category`, `style`, `source`, `policy` and `meta` (for instance {{
meta.topic }}). The system prompt is only there while rationales are written; no training example has it.
"""

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import jinja2.meta
import jinja2.sandbox

from rational_jax.config import yaml12
from rational_jax.curate.policies import Policies, load_policies
from rational_jax.data.schema import LABELS, Prompt
from rational_jax.errors import UserError
from rational_jax.storage import sha256_json
from rational_jax.text.chat import Message

REQUIRED, OPTIONAL, NONE = "required", "optional", "none"
REMOVE, REPORT, OFF = "remove", "report", "off"

_FOLDER = Path(__file__).resolve().parent / "recipes"
_VARIABLES = ("prompt", "category", "style", "source", "policy", "meta")
_COUNTS = {"samples": 4, "keep": 1}
_CHOICES = {"reasoning": (REQUIRED, OPTIONAL, NONE), "decontaminate": (REMOVE, REPORT, OFF)}
_KEYS = ("name", "description", "system", "policies", "filters", *_COUNTS, *_CHOICES)
# What a template that can be read may raise when it is filled in.
_FAILURES = (jinja2.TemplateError, TypeError, ValueError, ArithmeticError, LookupError, AttributeError, RecursionError)
_JINJA = jinja2.sandbox.ImmutableSandboxedEnvironment(undefined=jinja2.StrictUndefined)


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A recipe as its file says it. `system` maps "neutral", or labels, to a Jinja template; "" is no system prompt."""

    name: str
    description: str
    system: Mapping[str, str]
    policies: Policies | None = None
    filters: tuple[str, ...] | None = None
    reasoning: str = REQUIRED
    samples: int = _COUNTS["samples"]
    keep: int = _COUNTS["keep"]
    decontaminate: str = REMOVE

    @property
    def digest(self) -> str:
        """Changes with anything that changes what is asked or kept."""
        policies = self.policies and self.policies.digest
        return sha256_json(
            [dict(self.system), policies, self.filters, self.reasoning, self.samples, self.keep, self.decontaminate]
        )

    def messages(self, prompt: Prompt) -> tuple[Message, ...]:
        """The conversation that the model is asked to continue: the system prompt, then the prompt's own turns.

        A system turn that the prompt has itself follows in the same turn, since templates allow one.

        Raises UserError naming the prompt where its label is needed and not known, or a template lacks a value.
        """
        kind = "neutral" if "neutral" in self.system else prompt.label
        if kind not in self.system:
            raise UserError(
                f"recipe {self.name}: prompt {prompt.id!r} has the label {prompt.label!r}, and the recipe chooses its "
                f"system prompt by the label ({' or '.join(self.system)}); label the prompt or use a neutral recipe"
            )
        values = {name: getattr(prompt, name) for name in ("category", "style", "source")}
        values["policy"] = self.policies.find(prompt.category) if self.policies else ""
        try:
            text = _template(self.system[kind]).render(prompt=prompt.text, meta=dict(prompt.meta), **values)
        except _FAILURES as error:
            raise UserError(
                f"recipe {self.name}: the template system.{kind} fails for prompt {prompt.id!r}: {error}"
            ) from error
        text = text.strip()
        turns = prompt.messages
        if turns[0].role == "system":
            text, turns = f"{text}\n\n{turns[0].content}".strip(), turns[1:]
        return (Message(role="system", content=text), *turns) if text else turns


@functools.lru_cache(maxsize=64)
def _template(text: str) -> jinja2.Template:
    return _JINJA.from_string(text)


def load_recipe(name: str, model: str = "", policies: str | None = None) -> Recipe:
    """A packaged recipe by its name, or one of your own by the path of its .yaml file.

    A packaged recipe may have a wording of its own for one model: `rational-plus-micro` is what `rational-plus`
    stands for where `model` is "micro". `policies` is a file to take the place of the recipe's own.

    Raises UserError that names the file and what is wrong: an unknown key, variable or filter, or a template that is
    broken.
    """
    path = Path(name)
    if path.suffix not in (".yaml", ".yml"):
        packaged = {file.stem: file for file in _FOLDER.glob("*.yaml")}
        found = packaged.get(f"{name}-{model}") or packaged.get(name)
        if found is None:
            raise UserError(
                f"curate.recipe: {name!r} is not known; choose from {', '.join(sorted(packaged))}, "
                "or give the path of a .yaml file"
            )
        path = found
    if not path.is_file():
        raise UserError(f"curate.recipe: no such file: {path}")
    try:
        text = path.read_text("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text") from error
    return _parse(yaml12.load(text, str(path)), path, policies)


def _parse(data: object, path: Path, policies: str | None) -> Recipe:
    if not isinstance(data, dict):
        raise UserError(f"{path}: a recipe has the keys {', '.join(_KEYS)}")
    unknown = [key for key in data if key not in _KEYS]
    if unknown:
        raise UserError(f"{path}: unknown key {unknown[0]!r}; a recipe has {', '.join(_KEYS)}")
    name, description = data.get("name", path.stem), data.get("description") or ""
    if not isinstance(name, str) or not isinstance(description, str):
        raise UserError(f"{path}: name and description must be text")
    filters = data.get("filters")
    if filters is not None:
        if not isinstance(filters, list) or not all(isinstance(item, str) for item in filters):
            raise UserError(f"{path}: filters must be a list of names")
        filters = tuple(filters)
    found = _policies(data, path, policies)
    return Recipe(
        name=name,
        description=description,
        system=_system(data.get("system"), path, found),
        policies=found,
        filters=filters,
        **_numbers_and_words(data, path),
    )


def _system(system: object, path: Path, policies: Policies | None) -> dict[str, str]:
    kinds = set(system) if isinstance(system, dict) else set()
    if kinds != {"neutral"} and not {"harmful", "benign"} <= kinds <= set(LABELS):
        raise UserError(f"{path}: system needs either neutral, or both harmful and benign")
    for kind, template in system.items():
        if template is not None:
            _check_template(template, f"{path}: system.{kind}", policies is not None)
    return {kind: template or "" for kind, template in system.items()}


def _policies(data: dict, path: Path, instead: str | None) -> Policies | None:
    own = data.get("policies")
    if own is None:
        if instead is not None:
            raise UserError(f"curate.policies is set, but the recipe {path.stem} has no policies")
        return None
    if not isinstance(own, str):
        raise UserError(f"{path}: policies must be the name of a file beside the recipe")
    return load_policies(Path(instead) if instead is not None else path.parent / own)


def _numbers_and_words(data: dict, path: Path) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, default in _COUNTS.items():
        value = found[key] = data.get(key, default)
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise UserError(f"{path}: {key} must be a whole number of at least 1, got {value!r}")
    for key, choices in _CHOICES.items():
        value = found[key] = data.get(key, choices[0])
        if value not in choices:
            raise UserError(f"{path}: {key} must be one of {', '.join(choices)}, got {value!r}")
    if found["keep"] > found["samples"]:
        raise UserError(f"{path}: keep ({found['keep']}) is more than samples ({found['samples']})")
    return found


def _check_template(template: object, where: str, has_policies: bool) -> None:
    if not isinstance(template, str) or not template.strip():
        raise UserError(f"{where}: expected a text that is not empty, or null for no system prompt")
    try:
        used = jinja2.meta.find_undeclared_variables(_JINJA.parse(template))
    except jinja2.TemplateSyntaxError as error:
        raise UserError(f"{where}: line {error.lineno} of the template: {error.message}") from error
    unknown = sorted(used - set(_VARIABLES) - set(_JINJA.globals))
    if unknown:
        raise UserError(f"{where}: unknown variable {unknown[0]!r}; a template may use {', '.join(_VARIABLES)}")
    if "policy" in used and not has_policies:
        raise UserError(f"{where}: uses `policy`, so the recipe needs policies: the name of a file")
