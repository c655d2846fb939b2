"""The slow study of the micro world: is it the reasoning before the answer that helps? Controls and several seeds.

  python scripts/micro_controls.py                              five seeds, equal steps, development prompts
  python scripts/micro_controls.py --settings steps epochs answers
  python scripts/micro_controls.py --split test                 the same trained models on the test prompts: once
  python scripts/micro_controls.py --seeds 0 --out runs/try curate.limit=96 curate.samples=2 train.steps=4 \\
      train.warmup_steps=1 sample.limit=24                      two minutes, to see that all of it works

Every arm is trained on the same kept samples of a seed:
  rational      reasoning, then the answer
  refusal       the answer alone
  answer-first  the answer, then the reasoning: the same tokens, too late to help
  shuffled      the reasoning of another prompt with the same verdict, then the answer
Two references are not trained, and their greedy answers are the same for every seed:
  base          as it is
  self-check    base under the neutral system prompt that the rationales were written with: the ceiling

A setting is a run of all arms:
  steps         every arm takes the same optimizer steps (train.steps)
  epochs        every arm sees each example equally often: rational takes train.steps, the others (and their warm-up) in
                proportion to their packed rows, so the refusal arm with its short examples takes far fewer
  answers       as steps, and a reasoning token weighs (answer tokens / reasoning tokens) of the arm's packed data
                instead of train.reasoning_weight, so that all reasoning weighs as much as all answers

Left under --out for every setting: SPLIT-SETTING.md and .json, with the figures of the headline tier (things that no
request ever named), their intervals over both objects and seeds (rational_jax/evaluate/seeds.py says how), and the
differences rational - control, paired by prompt and seed.

KEY=VALUE changes configs/demo.yaml, but for the keys that the study sets. Rerun the same command to continue.
"""

import argparse
import dataclasses
import functools
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

from rational_jax import curate, evaluate, hub, sample, train
from rational_jax.cli.process import catch_interrupts, leave, use_huge_pages
from rational_jax.cli.progress import TerminalProgress
from rational_jax.cli.session import exit_code
from rational_jax.config import BASE, RunConfig, bundled_configs, load_config
from rational_jax.data.packing import balancing_weight
from rational_jax.data.sources import prompt_file
from rational_jax.data.suites import SUITES, load_suite
from rational_jax.errors import UserError
from rational_jax.evaluate.metrics import Settings
from rational_jax.evaluate.seed_tables import markdown, summarise, tables
from rational_jax.manifest import read_stage
from rational_jax.parallel.setup import configure_runtime
from rational_jax.progress import Progress
from rational_jax.storage import atomic_write_json, atomic_write_text
from rational_jax.workflow import demo, export
from rational_jax.workflow.steps import Step, run_steps

RATIONAL, SELF_CHECK = "rational", "self-check"
ARMS = (RATIONAL, "refusal", "answer-first", "shuffled")
SETTINGS = {"steps": "equal steps", "epochs": "equal epochs", "answers": "equal steps, answers half of the loss"}
SPLITS = {"dev": str(prompt_file("micro/dev")), "test": "micro"}
OURS = ("run", "seed", "curate.datasets", "train.arms", "sample.models", "sample.suites", "sample.temperature")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Study:
    """What was asked for, and what each part of it is configured with."""

    out: Path
    split: str
    seeds: tuple[int, ...]
    settings: tuple[str, ...]
    overrides: tuple[str, ...]

    def config(self, run: Path, seed: int, *, suite: str = "", models: tuple[str, ...] = ARMS, **more) -> RunConfig:
        """The demo's configuration with the user's changes, the study's and `more` (of `train`) on top.

        Raises UserError where the user changes what the study sets.
        """
        for override in self.overrides:
            if override.partition("=")[0].strip() in OURS:
                raise UserError(f"{override}: the study sets {', '.join(OURS)} itself")
        # The exports are only made to be sampled from here, so one part and the quick check are enough.
        changes = ["export.adapter=false", "export.verify=self", *self.overrides]
        lists = {"curate.datasets": ARMS, "train.arms": ARMS, "sample.models": models}
        lists["sample.suites"] = (suite or SPLITS[self.split],)
        changes += [f"run={run}", f"seed={seed}", "sample.temperature=0"]
        changes += [f"{key}={json.dumps(value)}" for key, value in lists.items()]
        changes += [f"train.{key}={value}" for key, value in more.items()]
        return load_config(bundled_configs()["demo.yaml"], changes)

    def curation(self, seed: int) -> RunConfig:
        return self.config(self.out / f"seed-{seed}", seed)

    def training(self, seed: int, setting: str, **more) -> RunConfig:
        return self.config(self.out / f"seed-{seed}" / setting, seed, **more)

    def answering(self, seed: int, setting: str) -> RunConfig:
        """A run of its own for each split, on the same exports."""
        return self.config(self.out / f"seed-{seed}" / setting / self.split, seed)

    def reference(self, name: str) -> RunConfig:
        """A run of the base alone; the self-check's reads the prompts that `write_self_check` makes."""
        run = self.out / self.split / name
        return self.config(run, 0, suite=str(run / "prompts.jsonl") if name == SELF_CHECK else "", models=(BASE,))


def write_self_check(study: Study) -> None:
    """The prompts of the split, with the system prompt that the rationales were written with."""
    config = study.reference(SELF_CHECK)
    recipe = curate.load_recipe(config.curate.recipe, config.model.name)
    prompts = [dataclasses.replace(p, messages=recipe.messages(p)) for p in load_suite(SPLITS[study.split])]
    lines = (json.dumps(prompt.to_json(), ensure_ascii=False) + "\n" for prompt in prompts)
    atomic_write_text(Path(config.sample.suites[0]), "".join(lines))


def train_arm(study: Study, seed: int, setting: str, arm: str, progress: Progress) -> None:
    """Trains an arm with what its setting makes of its curated data."""
    config = study.training(seed, setting)
    base = hub.resolve(config.model.name, config.model.revision)
    if setting == "epochs":
        rows = [train.load_packed(config, name, base).report.rows for name in (arm, RATIONAL)]
        steps = {key: equal_epochs(getattr(config.train, key), *rows) for key in ("steps", "warmup_steps")}
        config = study.training(seed, setting, **steps)
    if setting == "answers":
        weight = balancing_weight(train.load_packed(config, arm, base))
        config = config if weight is None else study.training(seed, setting, reasoning_weight=weight)
    train.run(config, arm, progress)


def equal_epochs(steps: int, rows: int, rational_rows: int) -> int:
    """Steps on `rows` packed rows that see each as often as `steps` on `rational_rows` do; at least one of any."""
    return max(min(steps, 1), round(steps * rows / rational_rows))


def steps_of(study: Study) -> list[Step]:
    """All verbs, in an order in which each finds what it needs; folders are relative to `study.out`."""
    found = []
    times = {step.verb: step.seconds for step in demo.plan(study.curation(0))}

    def add(config: RunConfig, folder: str, run: Callable, *arguments: object) -> None:
        verb, path = folder.partition("/")[0], (Path(config.run) / folder).relative_to(study.out)
        run = functools.partial(run, *arguments)
        found.append(Step(verb=verb, folder=str(path), seconds=times[verb], run=run))

    for config in map(study.reference, (BASE, SELF_CHECK)):
        add(config, f"sample/{BASE}", sample.run, config, BASE)
        add(config, "evaluate", evaluate.run, config)
    for seed in study.seeds:
        curated = study.curation(seed)
        add(curated, "curate", curate.run, curated)
        for setting in study.settings:
            trained, asked = study.training(seed, setting), study.answering(seed, setting)
            link(Path(trained.run) / "curate", Path(curated.run) / "curate")
            link(Path(asked.run) / "export", Path(trained.run) / "export")
            for arm in ARMS:
                add(trained, f"train/{arm}", train_arm, study, seed, setting, arm)
                add(trained, f"export/{arm}", export.run, trained, arm)
                add(asked, f"sample/{arm}", sample.run, asked, arm)
            add(asked, "evaluate", evaluate.run, asked)
    return found


def link(path: Path, target: Path) -> None:
    """`path` stands for `target`, which need not be there yet; relative, so that the study can be moved as a whole."""
    if not path.is_symlink():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.symlink_to(os.path.relpath(target, path.parent), target_is_directory=True)


def summary_of(study: Study, setting: str) -> dict:
    """Figures, differences and what was trained, as JSON."""
    config = study.curation(study.seeds[0])
    settings = Settings(confidence=config.evaluate.confidence, samples=config.evaluate.bootstrap, seed=0)
    runs = {n: [evaluate.read_outcomes(study.reference(n))[BASE]] * len(study.seeds) for n in (BASE, SELF_CHECK)}
    answered = [evaluate.read_outcomes(study.answering(seed, setting)) for seed in study.seeds]
    runs |= {arm: [outcomes[arm] for outcomes in answered] for arm in ARMS}
    asked = {"setting": setting, "split": study.split, "seeds": study.seeds, "overrides": study.overrides}
    found = summarise(runs, suite=SUITES["micro"], first=RATIONAL, settings=settings)
    return asked | found | {"trained": {arm: [trained(study, s, setting, arm) for s in study.seeds] for arm in ARMS}}


def trained(study: Study, seed: int, setting: str, arm: str) -> dict[str, float]:
    """What an arm's training came to, from its manifest."""
    manifest = read_stage(Path(study.training(seed, setting).run) / "train" / arm, verb="train")
    asked, packing = manifest["settings"]["train"], manifest["figures"]["packing"]
    return {
        "examples": packing["examples"],
        "steps": asked["steps"],
        "epochs": asked["steps"] * asked["batch_size"] / packing["rows"],
        "reasoning weight": asked["reasoning_weight"],
    }


def page(summary: dict) -> str:
    """The summary in Markdown, with what a reader has to know about it."""
    setting, seeds = SETTINGS[summary["setting"]], summary["seeds"]
    rows = []
    for arm, each in summary["trained"].items():  # a dict for each seed
        ends = [[f"{end(one[key] for one in each):.3g}" for end in (min, max)] for key in each[0]]
        rows.append((arm, *(least if least == most else f"{least} to {most}" for least, most in ends)))
    done = ("what was trained, from the least to the most over the seeds", ("arm", *each[0]), rows)
    notes = [
        f"Setting: {setting}. Prompts: {summary['split']}. Seeds: {', '.join(map(str, seeds))}.",
        "Intervals are over objects and seeds, and rather too wide than too narrow."
        if len(seeds) > 1
        else "One seed: intervals are over objects only, and say nothing of the variation between trainings.",
        "Differences are paired by seed and prompt, and not corrected for their number. Where none is shown there may "
        "still be one.",
        "Coverage is the share of answers that could be scored. The others, truncated or not to be judged, are in no "
        "error rate: where coverage is low, the rates are of a part of the answers.",
    ]
    if summary["overrides"]:
        notes.append(f"Not the demo's configuration: {', '.join(summary['overrides'])}.")
    if summary["split"] == "dev":
        notes.append("These prompts are for choices; figures to quote come from --split test.")
    return markdown(f"Controls of the micro world: {setting}", notes, [*tables(summary), done])


def main() -> int:
    """Returns 0 when all is done, 2 where something is for the user to mend, 130 where it was stopped."""
    study = options(sys.argv[1:])
    configure_runtime()

    def work() -> None:
        write_self_check(study)
        run_steps(steps_of(study), study.out, "study", TerminalProgress())
        for setting in study.settings:
            summary, path = summary_of(study, setting), study.out / f"{study.split}-{setting}"
            atomic_write_json(path.with_suffix(".json"), summary)
            atomic_write_text(path.with_suffix(".md"), page(summary))
            print(f"\n{page(summary)}\n{path}.md and .json")

    return exit_code(work)


def options(arguments: list[str]) -> Study:
    """The study that the command line asks for."""
    changes = tuple(word for word in arguments if "=" in word and not word.startswith("-"))
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        usage="%(prog)s [--seeds N ...] [--settings NAME ...] [--split dev|test] [--out FOLDER] [KEY=VALUE ...]",
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4], metavar="N")
    parser.add_argument("--settings", nargs="+", default=["steps"], choices=SETTINGS, metavar="NAME")
    parser.add_argument("--split", choices=SPLITS, default="dev", help="test is looked at once, when all is settled")
    parser.add_argument("--out", type=Path, default=Path("runs/controls"), metavar="FOLDER")
    # The changes are taken out first: an option of several values would swallow them.
    asked = parser.parse_args([word for word in arguments if word not in changes])
    seeds, settings = tuple(dict.fromkeys(asked.seeds)), tuple(dict.fromkeys(asked.settings))
    return Study(out=asked.out, split=asked.split, seeds=seeds, settings=settings, overrides=changes)


if __name__ == "__main__":
    use_huge_pages()
    catch_interrupts()
    leave(main())
