"""Attacks that a model words: requests in other styles, persuasive ones, translations; written once and kept."""

from collections.abc import Callable
from pathlib import Path

from rational_jax.config import BASE, EngineSection, RunConfig
from rational_jax.data.attacks import MODEL, check, instruction, rewrite_key
from rational_jax.data.suites import REWRITES, load_suites
from rational_jax.errors import UserError
from rational_jax.progress import Progress
from rational_jax.sample.backends import Backend
from rational_jax.sample.requests import STOP, Request
from rational_jax.storage import JsonlLog, alone
from rational_jax.text.chat import Message
from rational_jax.text.reasoning import THINK

MOST_TOKENS = 1024
# How a rewriter begins that answers instead of rewriting, or turns the task down.
_DECLINES = ("i'm sorry", "i am sorry", "i can't", "i cannot", "i won't", "sorry,", "i must decline", "as an ai")

OpenBackend = Callable[[RunConfig, str, Progress], Backend]


def write_missing(config: RunConfig, progress: Progress, open_backend: OpenBackend) -> None:
    """Has the model of `evaluate.judge_model` write what `sample.attacks` needs of it and RUN/sample does not have.

    Each row of the file has the hash of request and style, both of them, the wording, and the model. Where the model
    would not, or was cut off, the wording is empty and that prompt is left out of the attack. Another process of this
    machine that samples another model of the run meanwhile waits, so that all models meet the same wordings. Raises
    UserError for an unknown attack, where no model is named, and where it fails; what there is by then is kept.
    """
    first = [check(attack)[0] for attack in config.sample.attacks]
    styles = list(dict.fromkeys(part.removeprefix(MODEL) for part in first if part.startswith(MODEL)))
    if not styles:
        return
    suites = load_suites(config.sample.suites, config.sample.limit)
    texts = list(dict.fromkeys(p.text for prompts in suites.values() for p in prompts if p.label != "benign"))
    wanted = {rewrite_key(text, style): (text, style) for style in styles for text in texts}
    folder = Path(config.run) / "sample"
    with alone(folder), JsonlLog(folder / REWRITES) as log:
        there = {row["key"] for row in log.records()}
        missing = {key: pair for key, pair in wanted.items() if key not in there}
        if not missing:
            return
        section = config.evaluate.judge_model
        if section.name is None:
            raise UserError(f"sample.attacks: {MODEL}{styles[0]} is written by a model: set evaluate.judge_model.name")
        requests = [
            Request(
                id=key,
                messages=(Message(role="user", content=instruction(style) + text),),
                max_new_tokens=min(MOST_TOKENS, section.max_length // 2),
            )
            for key, (text, style) in missing.items()
        ]
        with progress.task(
            "writing attacks", total=len(wanted), unit="prompts", done=len(wanted) - len(missing)
        ) as task:
            failed = 0
            for completion in open_backend(helper(config), BASE, progress).generate(requests):
                text, style = missing[completion.id]
                answer = completion.apart(THINK).answer
                declined = completion.finish != STOP or answer.lower().replace("’", "'").startswith(_DECLINES)
                failed += declined
                row = {"key": completion.id, "style": style, "of": text, "text": "" if declined else answer}
                log.append(row | {"model": section.name})
                task.advance()
    if failed:
        progress.message(f"{section.name} did not write {failed:,} of {len(missing):,} attacks; these are left out")


def helper(config: RunConfig) -> RunConfig:
    """A configuration whose base model is that of `evaluate.judge_model`, as backends are opened.

    Other processes of the job read and check it, so the verbs' answers, which it is not asked for, fit its context.
    """
    section = config.evaluate.judge_model
    model = {"name": section.name, "revision": section.revision, "dtype": section.dtype}
    engine = {key: getattr(section, key) for key in EngineSection.model_fields}
    engine["endpoint_model"] = section.endpoint_model or section.name
    update = {"model": config.model.model_copy(update=model), "engine": EngineSection(**engine)}
    update["chat"] = config.chat.model_copy(update={"reasoning": "think"})  # as its answers are taken apart
    for verb in ("curate", "sample"):
        asked = getattr(config, verb)
        most = min(asked.max_new_tokens, section.max_length)
        update[verb] = asked.model_copy(update={"max_new_tokens": most})
    return config.model_copy(update=update)
