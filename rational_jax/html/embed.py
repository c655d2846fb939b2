"""Data inside a page, for its scripts to read."""

import json
from typing import Any

from markupsafe import Markup

# What could end the script element, open a comment in it, or end a line in old parsers; JSON allows to write them so.
_ESCAPES = str.maketrans({"<": "\\u003c", ">": "\\u003e", "&": "\\u0026", "\u2028": "\\u2028", "\u2029": "\\u2029"})


def json_script(identity: str, value: Any) -> Markup:
    """`value` as `<script type="application/json" id=...>`. Such an element is data: no browser runs it.

    Lone surrogates, which UTF-8 cannot hold, become replacement characters. Raises ValueError for NaN and infinities.
    """
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")).translate(_ESCAPES)
    text = text.encode("utf-8", "replace").decode("utf-8")
    return Markup('<script type="application/json" id="{}">').format(identity) + Markup(text) + Markup("</script>")
