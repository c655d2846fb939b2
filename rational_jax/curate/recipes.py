"""Recipes: how a model is asked to reason, as small YAML files with Jinja templates.

    name: my-recipe
    description: What it is for.
    system:                 # one neutral system prompt, or one for each label (the label must then be known)
      neutral: Think it through before you answer.
    filters: [format]       # optional: which filters decide what is kept; all of them where it is left out

A template may use `prompt` (the user's last turn), `category`, `style`, `source` and `meta` (for instance {{
meta.topic }}). The system prompt is only there while rationales are written; no training example has it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import jinja2
import jinja2.meta
import jinja2.sandbox

from rational_jax.config import yaml12
from rational_jax.data.schema import Prompt
from rational_jax.errors import UserError
from rational_jax.storage import sha256_json
from rational_jax.text.chat import Message

_FOLDER = Path(__file__).resolve().parent / "recipes"
_VARIABLES = ("prompt", "category", "style", "source", "meta")
_KEYS = ("name", "description", "system", "filters")
_BY_LABEL = ("harmful", "benign")
_JINJA = jinja2.sandbox.ImmutableSandboxedEnvironment(undefined=jinja2.StrictUndefined)


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A recipe as its file says it. `system` maps "neutral", or "harmful" and "benign", to a Jinja template."""

    name: str
    description: str
    system: Mapping[str, str]
    filters: tuple[str, ...] | None = None

    @property
    def digest(self) -> str:
        """Changes with anything that changes what is asked or kept."""
        return sha256_json({"system": dict(self.system), "filters": self.filters})

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
        try:
            text = _JINJA.from_string(self.system[kind]).render(prompt=prompt.text, meta=dict(prompt.meta), **values)
        except jinja2.TemplateError as error:
            raise UserError(f"recipe {self.name}: the template fails for prompt {prompt.id!r}: {error}") from error
        text = text.strip()
        turns = prompt.messages
        if turns[0].role == "system":
            text, turns = f"{text}\n\n{turns[0].content}".strip(), turns[1:]
        return (Message(role="system", content=text), *turns) if text else turns


def load_recipe(name: str, model: str = "") -> Recipe:
    """A packaged recipe by its name, or one of your own by the path of its .yaml file.

    A packaged recipe may have a wording of its own for one model: `rational-plus-micro` is what `rational-plus`
    stands for where `model` is "micro".

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
    return _parse(yaml12.load(text, str(path)), path)


def _parse(data: object, path: Path) -> Recipe:
    if not isinstance(data, dict):
        raise UserError(f"{path}: a recipe has the keys {', '.join(_KEYS)}")
    unknown = [key for key in data if key not in _KEYS]
    if unknown:
        raise UserError(f"{path}: unknown key {unknown[0]!r}; a recipe has {', '.join(_KEYS)}")
    name, description = data.get("name", path.stem), data.get("description") or ""
    if not isinstance(name, str) or not isinstance(description, str):
        raise UserError(f"{path}: name and description must be text")
    system = data.get("system")
    if not isinstance(system, dict) or set(system) not in ({"neutral"}, set(_BY_LABEL)):
        raise UserError(f"{path}: system needs either neutral, or both harmful and benign")
    for kind, template in system.items():
        _check_template(template, f"{path}: system.{kind}")
    filters = data.get("filters")
    if filters is not None:
        if not isinstance(filters, list) or not all(isinstance(item, str) for item in filters):
            raise UserError(f"{path}: filters must be a list of names")
        filters = tuple(filters)
    return Recipe(name=name, description=description, system=dict(system), filters=filters)


def _check_template(template: object, where: str) -> None:
    if not isinstance(template, str) or not template.strip():
        raise UserError(f"{where}: expected a text that is not empty")
    try:
        used = jinja2.meta.find_undeclared_variables(_JINJA.parse(template))
    except jinja2.TemplateSyntaxError as error:
        raise UserError(f"{where}: line {error.lineno} of the template: {error.message}") from error
    unknown = sorted(used - set(_VARIABLES) - set(_JINJA.globals))
    if unknown:
        raise UserError(f"{where}: unknown variable {unknown[0]!r}; a template may use {', '.join(_VARIABLES)}")
