"""YAML by the rules of version 1.2, where `off` is a word, `1e-3` a number and `2024-01-01` no date.

PyYAML follows version 1.1, which turns those into a boolean, a text and a date object. Keys that stand twice, which it
would silently take the last of, are refused.
"""

import math
import re
from typing import Any

import yaml

from rational_jax.errors import UserError

_RULES = (
    ("tag:yaml.org,2002:null", r"~|null|Null|NULL|", "~nN\0"),
    ("tag:yaml.org,2002:bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("tag:yaml.org,2002:int", r"[-+]?[0-9]+", "-+0123456789"),
    (
        "tag:yaml.org,2002:float",
        r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
        "-+.0123456789",
    ),
    ("tag:yaml.org,2002:merge", r"<<", "<"),
)
_RESOLVERS: dict[str, list] = {}
for _tag, _pattern, _first in _RULES:
    for _character in _first:
        # PyYAML looks a plain scalar's rules up by its first character; "" stands for the empty scalar.
        _RESOLVERS.setdefault(_character.replace("\0", ""), []).append((_tag, re.compile(rf"(?:{_pattern})\Z")))


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers = _RESOLVERS

    def construct_mapping(self, node, deep=False):
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                if key.value in seen:
                    raise yaml.constructor.ConstructorError(None, None, f"{key.value} stands twice", key.start_mark)
                seen.add(key.value)
        return super().construct_mapping(node, deep=deep)


class _Dumper(yaml.SafeDumper):
    yaml_implicit_resolvers = _RESOLVERS


# `010` is ten and `1e-3` is a number here; PyYAML's own constructors know octals and want a point.
_Loader.add_constructor("tag:yaml.org,2002:int", lambda loader, node: int(loader.construct_scalar(node)))
_Loader.add_constructor("tag:yaml.org,2002:float", lambda loader, node: _number(loader.construct_scalar(node)))


def load(text: str, where: str) -> Any:
    """The value that one YAML document holds. Raises UserError "where:line: ..." for anything that is not YAML."""
    try:
        return yaml.load(text, _Loader)
    except yaml.reader.ReaderError as error:
        raise UserError(f"{where}: is not text ({error.reason})") from None
    except yaml.MarkedYAMLError as error:
        line = f":{error.problem_mark.line + 1}" if error.problem_mark and "\n" in text else ""
        raise UserError(f"{where}{line}: is not YAML ({error.problem})") from None
    except (ValueError, RecursionError):
        raise UserError(f"{where}: a number of thousands of digits, or brackets in brackets without end") from None


def dump(value: Any) -> str:
    """A scalar or a flat list of printable words on one line, such that `load` gives it back."""
    if isinstance(value, float) and math.isfinite(value):
        return repr(value)
    style = '"' if isinstance(value, str) and not value.isprintable() else None  # the others would break the line
    text = yaml.dump(
        value, Dumper=_Dumper, default_flow_style=True, default_style=style, width=math.inf, allow_unicode=True
    )
    return text.removesuffix("...\n").strip()


def _number(text: str) -> float:
    return float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))
