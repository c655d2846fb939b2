"""The kit: escaping everywhere, data that cannot break out, a policy that names its scripts, no network."""

import base64
import hashlib
import json
import re

import jinja2
import pytest

from rational_jax.html import Page, environment, json_script, render

NASTY = "</script><script>alert(1)</script><!-- \u2028 & \u202e <b>"


@pytest.fixture
def room(tmp_path):
    template = "{% extends 'page.html' %}{% block body %}<p>{{ words }}</p>{{ json_script('d', data) }}{% endblock %}"
    (tmp_path / "own.html").write_text(template)
    return environment(tmp_path)


def test_values_are_escaped_and_neutralised(room):
    page = render(room, "own.html", Page(title="T <&>"), words=NASTY, data={"text": NASTY})
    assert "<title>T &lt;&amp;&gt;</title>" in page
    assert "&lt;script&gt;alert(1)" in page
    assert "⟨RLO⟩" in page
    assert "<script>alert" not in page
    assert page.count("<script") == page.count("</script>") == 1


def test_embedded_data_reads_back_and_cannot_end_its_element():
    value = {"text": NASTY, "list": [None, True, 1.5, "\\u003c"], NASTY: "key"}
    element = str(json_script("d", value))
    inside = re.fullmatch(r'<script type="application/json" id="d">(.*)</script>', element).group(1)
    assert "<" not in inside and ">" not in inside and "&" not in inside and "\u2028" not in inside
    assert json.loads(inside) == value
    assert json.loads(re.sub("<[^>]*>", "", str(json_script("d", "half \ud800")))) == "half ?"
    with pytest.raises(ValueError, match="JSON"):
        json_script("d", float("nan"))


def test_policy_names_exactly_the_scripts_and_styles_in_the_page(room):
    script = "console.log('ours & only ours');"
    page = render(room, "own.html", Page(title="", scripts=(script,), styles=("p{color:red}",)), words="", data=0)
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', page).group(1)
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "http" not in policy
    for kind in ("script", "style"):
        texts = re.findall(rf"<{kind}>(.*?)</{kind}>", page, re.DOTALL)
        hashes = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in texts]
        assert texts and re.search(rf"{kind}-src ([^;]*)", policy).group(1) == " ".join(f"'sha256-{h}'" for h in hashes)


def test_a_script_that_would_end_its_element_is_refused(room):
    with pytest.raises(ValueError, match="closing tag"):
        render(room, "own.html", Page(title="", scripts=("'</SCRIPT>'",)), words="", data=0)


def test_a_misspelt_name_is_an_error_and_not_an_empty_place(room):
    with pytest.raises(jinja2.UndefinedError):
        render(room, "own.html", Page(title=""), word="", data=0)
