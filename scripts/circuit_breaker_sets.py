"""The two sets that circuit breakers are trained on, from what a model itself answers.

  python scripts/circuit_breaker_sets.py circuit-breaker.yaml
  python scripts/circuit_breaker_sets.py mine.yaml curate.prompts=prompts.jsonl curate.samples=4

The base answers curate.prompts as it always does, without a system prompt, and those that are not benign once more with
its turn begun for it (the attack prefill), or a model that refuses would give nothing to reroute. evaluate.judge says
what each answer did. Where it complied with a harmful prompt it goes to train.circuit_breaker.reroute, as an answer to
the plain prompt; all else that could be judged, but for partial answers and those under the attack, goes to
train.circuit_breaker.retain: answers to benign prompts, and refusals. It is asked as in curation (curate.samples,
temperature, top_p, max_new_tokens). What is drawn and judged stays under RUN/sets.

What is written holds harmful answers where the base gives some: keep it as such texts are kept. Rerun the same command
to continue.
"""

import json
import sys
from pathlib import Path

from rational_jax import evaluate, sample
from rational_jax.cli.process import catch_interrupts, leave
from rational_jax.cli.progress import TerminalProgress
from rational_jax.cli.session import configuration, exit_code
from rational_jax.config import BASE, RunConfig
from rational_jax.data.schema import Rationale
from rational_jax.data.sources import read_prompts
from rational_jax.errors import UserError
from rational_jax.evaluate.outcomes import Outcome
from rational_jax.evaluate.run import read_outcomes
from rational_jax.parallel.setup import configure_runtime
from rational_jax.progress import SILENT, Progress
from rational_jax.storage import atomic_write_text

ATTACK = "prefill"


def write_sets(config: RunConfig, progress: Progress = SILENT) -> dict[str, int]:
    """Writes both files and returns how many answers each has. Raises UserError where one would have none."""
    section = config.train.circuit_breaker
    files = {"reroute": section.reroute, "retain": section.retain}
    for name, file in files.items():
        if file is None or Path(file).suffix != ".jsonl":
            raise UserError(f"train.circuit_breaker.{name}: name the .jsonl file that is to be written")
    asked = asking(config)
    sample.run(asked, BASE, progress)
    evaluate.run(asked, progress)
    rows: dict[str, list[str]] = {name: [] for name in files}
    for outcome in read_outcomes(asked)[BASE]:
        if name := set_of(outcome):
            rows[name].append(json.dumps(rationale(outcome).to_json(), ensure_ascii=False) + "\n")
    for name in files:
        if not rows[name]:
            raise UserError(f"no answer of {config.model.name} belongs to {name}; give more curate.prompts")
    for name, file in files.items():
        atomic_write_text(Path(file), "".join(rows[name]))
    return {name: len(lines) for name, lines in rows.items()}


def asking(config: RunConfig) -> RunConfig:
    """The run in which the base answers, below the one that is asked for; its prompts are written for it."""
    curate, folder = config.curate, Path(config.run) / "sets"
    prompts = folder / "prompts.jsonl"
    lines = (json.dumps(p.to_json(), ensure_ascii=False) + "\n" for p in read_prompts(curate.prompts, curate.limit))
    atomic_write_text(prompts, "".join(lines))
    drawn = {name: getattr(curate, name) for name in ("temperature", "top_p", "max_new_tokens")}
    drawn |= {"suites": (str(prompts),), "models": (BASE,), "limit": None, "attacks": (ATTACK,)}
    drawn["samples"] = curate.samples or 1
    return config.model_copy(update={"run": str(folder), "sample": config.sample.model_copy(update=drawn)})


def set_of(outcome: Outcome) -> str | None:
    """Which set an answer belongs to; None for one that belongs to neither."""
    if not outcome.scored or outcome.label == "partial" or outcome.answer.prompt.label == "unknown":
        return None
    if outcome.answer.prompt.label == "harmful" and outcome.complied:
        return "reroute"
    return None if ATTACK in outcome.answer.prompt.meta.values() else "retain"


def rationale(outcome: Outcome) -> Rationale:
    """The answer as something to train on."""
    answer = outcome.answer
    return Rationale(
        id=f"{answer.prompt.id}#{answer.sample}",
        prompt=answer.prompt,
        reasoning=answer.reasoning or "",
        answer=answer.answer,
        layout="rational" if answer.reasoning else "refusal",
        sample=answer.sample,
        generator=answer.model,
    )


def main() -> int:
    """Returns 0 when both sets are written, 2 where something is for the user to mend, 130 where it was stopped."""
    words = sys.argv[1:]
    if {"-h", "--help"} & set(words) or not words:
        print(__doc__.strip())
        return 0
    configure_runtime()

    def work() -> None:
        config = configuration(words)
        for name, count in write_sets(config, TerminalProgress()).items():
            print(f"{name}: {count:,} answers in {getattr(config.train.circuit_breaker, name)}")

    return exit_code(work)


if __name__ == "__main__":
    catch_interrupts()
    leave(main())
