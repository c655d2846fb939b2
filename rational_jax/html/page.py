"""From a template to one self-contained file."""

import base64
import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from rational_jax.html import charts
from rational_jax.html.embed import json_script
from rational_jax.html.neutralise import neutralise

_KIT = Path(__file__).parent / "templates"


@dataclass(frozen=True, kw_only=True)
class Page:
    """What `page.html` needs besides the blocks of a page: its title, its scripts and its own styles, as plain text."""

    title: str
    scripts: tuple[str, ...] = ()
    styles: tuple[str, ...] = ()


def _finalize(value: Any) -> Any:
    """Every plain string that a template shows is neutralised on its way to being escaped."""
    return neutralise(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def environment(*folders: Path) -> jinja2.Environment:
    """Templates of `folders` and of the kit. Values are escaped and neutralised; an undefined name is an error."""
    loader = jinja2.FileSystemLoader([*map(str, folders), str(_KIT)])
    env = jinja2.Environment(
        loader=loader,
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=_finalize,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    env.globals.update(charts=charts, json_script=json_script)
    return env


def render(env: jinja2.Environment, template: str, page: Page, **context: Any) -> str:
    """The page as HTML text. Only the scripts and styles named in `page` and the kit's own can run in it."""
    styles = [(_KIT / "theme.css").read_text("utf-8"), *page.styles]
    policy = (
        "default-src 'none'; base-uri 'none'; form-action 'none'; img-src data:; "
        f"style-src {_hashes(styles)}; script-src {_hashes(page.scripts)}"
    )
    return env.get_template(template).render(
        title=page.title,
        policy=Markup(policy),
        styles=[_raw(style, "style") for style in styles],
        scripts=[_raw(script, "script") for script in page.scripts],
        **context,
    )


def _raw(text: str, element: str) -> Markup:
    """Our own style or script text, which no escaping may touch. It must not end its element."""
    if f"</{element}" in text.lower():
        raise ValueError(f"a page's {element} must not contain its own closing tag")
    return Markup(text)


def _hashes(texts: list[str] | tuple[str, ...]) -> str:
    """The sources of a policy that allow exactly these texts."""
    digests = (base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in texts)
    return " ".join(f"'sha256-{digest}'" for digest in digests) or "'none'"
