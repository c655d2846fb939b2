"""The kit that self-contained pages are made of: one file, no network, safe to open whatever a model wrote.

A page extends `page.html`, is rendered by `render`, and shows data with `charts` and `json_script`. Three things keep
model text inert: every value is escaped by the template engine, `neutralise` makes control and bidi characters
visible, and a Content-Security-Policy allows no script but the ones in the kit and the page, named by their hashes.
"""

from rational_jax.html.embed import json_script
from rational_jax.html.neutralise import neutralise
from rational_jax.html.page import Page, environment, render

__all__ = ["Page", "environment", "json_script", "neutralise", "render"]
