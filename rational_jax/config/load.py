"""From YAML and dotted overrides to a `RunConfig`, and back. Errors name the key and the place where it stands."""

import difflib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from pydantic import ValidationError
from pydantic.fields import FieldInfo

from rational_jax.config import yaml12
from rational_jax.config.kinds import Section
from rational_jax.config.schema import RunConfig
from rational_jax.errors import UserError


def load_config(path: str | Path | None, overrides: Sequence[str] = ()) -> RunConfig:
    """The configuration in a YAML file, with dotted overrides such as "train.steps=10" put on top, checked as a whole.

    What the file does not name keeps its default; `path` None is all defaults. The value of an override is YAML too
    (`train.arms=[rational]`, `curate.limit=null`), taken as it stands where the key holds text. Raises UserError,
    naming the key and where it stands, for unknown keys (with the nearest valid one), wrong types and wrong values.
    """
    data: dict = {}
    if path is not None:
        for key, value in _read(Path(path)).items():
            data = _merged(data, _nested(str(key), value))
    places = dict.fromkeys(_leaves(data), Path(path).name if path is not None else "")
    for override in overrides:
        key, equals, text = (part.strip() for part in override.partition("="))
        if not equals or not key:
            raise UserError(f"{override!r} is no override; write KEY=VALUE, such as train.steps=10")
        if _field(key) is None:
            raise UserError(f"{_unknown(key)} (command line)")
        change = _nested(key, _override_value(key, text))
        places |= dict.fromkeys(_leaves(change), "command line")
        data = _merged(data, change)
    try:
        return RunConfig.model_validate(_prepared(data))
    except ValidationError as error:
        by_key: dict[str, str] = {}
        for item in error.errors():
            key = ".".join(part for part in item["loc"] if isinstance(part, str))
            by_key.setdefault(key, _explained(key, item, places))  # a list with a wrong item is also "too short"
        lines = list(by_key.values())
        more = f"; and {len(lines) - 3} more" if len(lines) > 3 else ""
        raise UserError("; ".join(lines[:3]) + more) from None


def bundled_configs() -> dict[str, Path]:
    """Name -> path of the configurations that come with the package, in a checkout and in an installed wheel.

    Names are those below configs/: demo.yaml, recipes/qwen3-8b-lora.yaml.
    """
    package = Path(__file__).parent.parent
    directories = [d for d in (package / "configs", package.parent / "configs") if d.is_dir()]
    files = sorted(directories[0].rglob("*.yaml")) if directories else []
    return {file.relative_to(directories[0]).as_posix(): file for file in files}


def to_yaml(config: RunConfig) -> str:
    """The whole configuration as YAML with each field's meaning as a comment; `load_config` reads it back equal."""
    return "".join(f"{line}\n" for line in _yaml_lines(config))


def _yaml_lines(section: Section, indent: str = "") -> Iterator[str]:
    for name, field in type(section).model_fields.items():
        value = getattr(section, name)
        if isinstance(value, Section):
            yield from () if indent else ("",)
            yield f"{indent}{name}:  # {value.__doc__}"
            yield from _yaml_lines(value, indent + "  ")
        else:
            setting = f"{indent}{name}: {yaml12.dump(_shortest(value))}"
            yield f"{setting:<34}  # {field.description}"


def _shortest(value: Any) -> Any:
    """A value as a configuration file says it: a source of prompts as its text alone, where that says it all."""
    if isinstance(value, tuple):
        return [_shortest(item) for item in value]
    if not isinstance(value, Section):
        return value
    said = value.model_dump(mode="json", exclude_defaults=True)
    return said["source"] if said.keys() == {"source"} else said


def _read(path: Path) -> dict:
    if not path.exists():
        names = [name for name in bundled_configs() if "/" not in name]
        more = "and more under recipes/ and paper/"
        raise UserError(f"{path}: no such file; the bundled configurations are {', '.join(names)} {more}")
    if not path.is_file():
        raise UserError(f"{path} is not a file")
    try:
        text = path.read_text("utf-8-sig")
    except UnicodeDecodeError:
        raise UserError(f"{path} is not UTF-8 text, so it is no configuration") from None
    data = yaml12.load(text, str(path))
    if not isinstance(data, dict | None):
        raise UserError(f"{path}: expected keys such as `train:`, got {_shown(data)}")
    return data or {}


def _nested(key: str, value: Any) -> dict:
    head, _, rest = key.partition(".")
    return {head: _nested(rest, value) if rest else value}


def _merged(below: Any, above: Any) -> Any:
    if not (isinstance(below, dict) and isinstance(above, dict)):
        return above
    return below | {key: _merged(below.get(key), value) for key, value in above.items()}


def _leaves(value: Any, prefix: str = "") -> list[str]:
    if not isinstance(value, dict):
        return [prefix]
    return [leaf for key, inner in value.items() for leaf in _leaves(inner, f"{prefix}.{key}" if prefix else str(key))]


def _prepared(value: Any, prefix: str = "") -> Any:
    """What strict validation wants: lists as tuples, keys as text, and no section that is there but empty."""
    if isinstance(value, list):
        return tuple(_prepared(item, f"{prefix}.") for item in value)
    if not isinstance(value, dict):
        return value
    paths = {key: f"{prefix}.{key}" if prefix else str(key) for key in value}
    kept = {key: inner for key, inner in value.items() if inner is not None or _section(_field(paths[key])) is None}
    return {str(key): _prepared(inner, paths[key]) for key, inner in kept.items()}


def _field(key: str) -> FieldInfo | None:
    """The field at a dotted key, or None where there is no such key."""
    model, field = RunConfig, None
    for part in key.split("."):
        field = model.model_fields.get(part) if model else None
        model = _section(field)
    return field


def _section(field: FieldInfo | None) -> type[Section] | None:
    """The section that a field holds, or None for a value."""
    kind = field.annotation if field else None
    return kind if isinstance(kind, type) and issubclass(kind, Section) else None


def _all_keys(model: type[Section] = RunConfig, prefix: str = "") -> Iterator[str]:
    for name, field in model.model_fields.items():
        yield f"{prefix}{name}"
        sections = [part for part in get_args(field.annotation) if isinstance(part, type) and issubclass(part, Section)]
        if inner := _section(field) or next(iter(sections), None):
            yield from _all_keys(inner, f"{prefix}{name}.")


def _takes_text(kind: Any) -> bool:
    if get_origin(kind) is Literal:
        return True
    return kind is str or (get_origin(kind) is not tuple and any(_takes_text(part) for part in get_args(kind)))


def _override_value(key: str, text: str) -> Any:
    # On a command line nothing is quoted: `run=2024` and `report.title=A: B` are texts because the keys hold text.
    literal = text not in ("", "null", "~") and text[0] not in "\"'"
    if literal and _takes_text(_field(key).annotation):
        return text
    return yaml12.load(text, key)


def _unknown(key: str) -> str:
    keys = list(_all_keys())
    of, _, last = key.rpartition(".")
    if key in keys:
        item = ", ".join(f"{name}: ..." for name in dict.fromkeys(("source", last)))
        return f"{_shown(key)} is of one item of {of}, and no key by itself: write {of}={{{item}}}"
    # The same word elsewhere (a forgotten section) is a better guess than a word that looks like it.
    near = [k for k in keys if k.rpartition(".")[2] == last] or difflib.get_close_matches(key, keys, 1, 0.6)
    if not near:
        words = difflib.get_close_matches(last, {k.rpartition(".")[2] for k in keys}, 1, 0.7)
        near = [k for k in keys if k.rpartition(".")[2] in words]
    advice = f"did you mean {' or '.join(near[:2])}?" if near else "--print-config shows all keys"
    return f"unknown key {_shown(key)}; {advice}"


_EXPECTED = {
    "int_type": "a whole number",
    "float_type": "a number",
    "finite_number": "a number",
    "string_type": "text",
    "bool_type": "true or false",
    "tuple_type": "a list such as [a, b]",
    "model_type": "a section of keys",
    "string_too_short": "text",
    "too_short": "at least one",
    "literal_error": "{expected}",
    "greater_than_equal": "at least {ge}",
    "greater_than": "more than {gt}",
    "less_than_equal": "at most {le}",
    "less_than": "less than {lt}",
}


def _explained(key: str, item: Any, places: dict[str, str]) -> str:
    """One of pydantic's errors in our words: the key, what is expected, what stands there, and in which place."""
    where = {place for leaf, place in places.items() if f"{leaf}.".startswith(f"{key}." if key else "")}
    place = f" ({' and '.join(sorted(where))})" if where - {""} else ""
    if item["type"] == "extra_forbidden":
        return f"{_unknown(key)}{place}"
    if item["type"] == "value_error":
        return f"{key}: {item['ctx']['error']}{place}" if key else f"{item['ctx']['error']}{place}"
    if item["type"] in _EXPECTED:
        expected = _EXPECTED[item["type"]].format(**item.get("ctx", {})).replace("'", "")
        return f"{key}: expected {expected}, got {_shown(item['input'])}{place}"
    return f"{key}: {item['msg']}{place}"


def _shown(value: Any) -> str:
    text = repr(value) if isinstance(value, str) else json.dumps(value, default=str)
    return text if len(text) <= 60 else f"{text[:56]} ..."
