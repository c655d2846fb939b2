"""Fits the learned half of the refusal judge and measures the judge on models and prompts that it was not fitted on.

    python scripts/fit_refusal_judge.py ../shared/data/xstest            # measure only
    python scripts/fit_refusal_judge.py ../shared/data/xstest --write    # and write the weights that ship

The folder holds XSTest's human-labelled completions, xstest_v2_completions_*.csv, one file a model. Beside them the
model is fitted on ANSWERS, 5,520 of them written one by one, and on EXAMPLES drawn from patterns, in many styles each,
because the labelled ones are of two families' styles.

Each of XSTest's answers is judged by weights fitted on the other models' answers to other prompts, and on the
examples: one model and one of FOLDS parts of the prompts are left out in turn, and the verdicts of all folds are
pooled. Beside the judge as it ships ("rules or model") stand its halves. The table of rules is the same in every fold:
it was written against the answers of Mistral and of Llama 2 with its original system prompt, so for these two "rules"
and "rules or model" flatter the judge. "model alone" does not: nothing in it comes from answers of the model left out.
"styles left out" judges each style of the examples by weights fitted on XSTest and on all other styles.

Measured, binary kappa: model alone .866 pooled and .646 on the worst model (Mistral); rules or model .897 and .720.
Measured blind on 240 answers in 20 styles by somebody who did not know the judge (tests/judges/blind_styles_3.jsonl):
.631 with parts a to j of the answers, and .630, accuracy .817, with the others too: 19 of 105 compliances were called
refusals, 17 of 110 refusals and 8 of 25 partial ones were not heard. The judge before it, which had parts a to d and no
view of the words, was .471 on them; its own figures on XSTest were .855 and .616, .881 and .690. What is not heard says
no word of declining: it is another topic, an honest way, a question. To hear that one has to know what was asked and
whether this answers it, and more examples no longer help. A large language model that read XSTest's definitions and no
labels agreed with XSTest's people on 240 of their answers at a kappa of .967, and with all of the 240 blind ones (which
such a model had written): where other styles matter, a model has to judge (evaluate.judge: fulfilment, guard). Whoever
fits this one on these 240 needs new ones.
"""

import argparse
import csv
import json
import random
import re
import sys
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy.optimize import minimize
from scipy.sparse import csr_matrix, vstack

from rational_jax.judges import agreement
from rational_jax.judges.refusal import SURE, RefusalJudge, reading_of
from rational_jax.judges.refusal_model import SHIPPED, WIDTH, RefusalModel, features

EXAMPLES = Path(__file__).with_name("refusal_examples.txt")
ANSWERS = Path(__file__).with_name("refusal_answers.jsonl")
DRAWS = 12
# What all draws of one line of the examples weigh together, and what an answer of XSTest does. A written one weighs 1;
# the later ones are harder than what models say, and weigh less.
LINE, PERSON = 2.0, 5.0
WRITTEN = {part: 0.3 for part in "efghijklmn"}
FOLDS = 5
L2 = 0.1
LABELS = {"1_full_compliance": "compliance", "2_full_refusal": "refusal", "3_partial_refusal": "partial"}
PREFIX = "xstest_v2_completions_"

_SLOT = re.compile(r"(?<!\\)\{(\w+)\}")
_CHOICE = re.compile(r"(?<!\\)\[((?:[^\[\]\\]|\\.)*)\]")


class Row(NamedTuple):
    """An answer with its label. `group` is the model that it is of, or the style of an example; `number` the prompt."""

    group: str
    number: str
    prompt: str
    answer: str
    label: str
    weight: float = 1.0


def read(folder: Path) -> list[Row]:
    """Every labelled completion."""
    rows = []
    for path in sorted(folder.glob(f"{PREFIX}*.csv")):
        with path.open(newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                model = path.stem.removeprefix(PREFIX)
                rows.append(Row(model, row["id"], row["prompt"], row["completion"], LABELS[row["final_label"]], PERSON))
    if not rows:
        sys.exit(f"{folder}: holds no {PREFIX}*.csv")
    return rows


def examples(path: Path = EXAMPLES) -> list[Row]:
    """What the lines of `path` make, DRAWS of each at most; the same on every machine."""
    slots: dict[str, list[str]] = {}
    rows, label, style = [], "", ""
    for line in path.read_text("utf-8").splitlines():
        if line.startswith("# "):
            _, label, style = line.split(" ", 2)
        elif (named := re.match(r"\{(\w+)\} = (.*)", line)) is not None:
            slots[named[1]] = named[2].split(" | ")
        elif label and line:
            draw = random.Random(zlib.crc32(line.encode()))
            texts = dict.fromkeys(expand(line, slots, draw) for _ in range(DRAWS))
            rows += [Row(f"{label} {style}", "", "", text, label, LINE / len(texts)) for text in texts]
    return rows


def answers(path: Path = ANSWERS) -> list[Row]:
    """Whole answers, written one by one by fourteen hands (`part`)."""
    rows = map(json.loads, path.read_text("utf-8").splitlines())
    return [
        Row(f"part {row['part']}", "", row["prompt"], row["answer"], row["label"], WRITTEN.get(row["part"], 1.0))
        for row in rows
    ]


def expand(line: str, slots: dict[str, list[str]], draw: random.Random) -> str:
    """One text that `line` stands for."""
    before = None
    while line != before:
        before = line
        line = _SLOT.sub(lambda found: draw.choice(slots[found[1]]), line)
        line = _CHOICE.sub(lambda found: draw.choice(found[1].split("|")), line)
    line = re.sub(r"([.?!])\.", r"\1", line.replace("\\n", "\n"))
    return re.sub(r"\\([\[\]{}])", r"\1", line)


def design(rows: list[Row]) -> csr_matrix:
    """[N, WIDTH]: the features as the model weighs them."""
    columns, of, values = features([reading_of(row.answer, row.prompt) for row in rows])
    return csr_matrix((values, (of, columns)), shape=(len(rows), WIDTH))


def fit(inputs: csr_matrix, true: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Coefficients of an L2-regularised logistic regression, [WIDTH]. Columns that no input has stay 0."""
    sign = np.where(true, 1.0, -1.0)

    def loss(coefficients):
        margin = sign * (inputs @ coefficients)
        slope = -sign * weights / (1.0 + np.exp(margin))
        value = (weights * np.logaddexp(0, -margin)).sum() + L2 / 2 * coefficients @ coefficients
        return value, inputs.T @ slope + L2 * coefficients

    return minimize(loss, np.zeros(WIDTH), jac=True, method="L-BFGS-B", options={"maxiter": 200}).x


class Material:
    """The answers to fit on, with their features: XSTest's first, then the written ones, then the examples."""

    def __init__(self, people: list[Row], written: list[Row], drawn: list[Row]):
        self.rows = people + written + drawn
        self.inputs = vstack([design(rows) for rows in (people, written, drawn)]).tocsr()
        self.labels = np.array([row.label for row in self.rows])
        self.weights = np.array([row.weight for row in self.rows])
        self.people = np.arange(len(self.rows)) < len(people)

    def model(self, kept: np.ndarray) -> RefusalModel:
        """The model fitted on the rows that `kept` [N] marks."""
        refused = self.labels != "compliance"
        halves = self._fit(kept, refused), self._fit(kept & refused, self.labels == "partial")
        return RefusalModel(np.stack(halves).astype(np.float16).astype(np.float32))

    def _fit(self, kept: np.ndarray, true: np.ndarray) -> np.ndarray:
        return fit(self.inputs[kept], true[kept], self.weights[kept])


def held_out(of: Material) -> dict[str, list[str]]:
    """Verdicts on XSTest's answers of the judge and of its halves, by fold, in the order of the rows."""
    rows = [row for row, people in zip(of.rows, of.people, strict=True) if people]
    prompts = sorted({row.number for row in rows})
    part = dict(zip(prompts, np.random.default_rng(0).permutation(len(prompts)) % FOLDS, strict=True))
    part[""] = -1  # the examples, which are in every fold
    models, parts = np.array([row.group for row in of.rows]), np.array([part[row.number] for row in of.rows])
    rules = RefusalJudge(model=None)
    found = {"rules": [rules.judge(row.answer).label for row in rows]}
    found |= {"model alone": [""] * len(rows), "rules or model": [""] * len(rows)}
    for model in sorted({row.group for row in rows}):
        for fold in range(FOLDS):
            fitted = of.model((models != model) & (parts != fold))
            judge = RefusalJudge(model=fitted)
            tested = np.flatnonzero((models == model) & (parts == fold))
            alone = fitted.probabilities([reading_of(rows[i].answer, rows[i].prompt) for i in tested])
            for i, (refusal, partial) in zip(tested, alone, strict=True):
                kind = "partial" if partial >= 0.5 else "refusal"
                found["model alone"][i] = kind if refusal >= SURE else "compliance"
                found["rules or model"][i] = judge.judge(rows[i].answer, rows[i].prompt).label
    return found


def left_out_styles(of: Material) -> float:
    """Binary kappa of the model alone on the examples, each style judged without having been fitted on."""
    groups = np.array([row.group for row in of.rows])
    people, judged = [], []
    for style in sorted(set(groups[~of.people])):
        tested = [row for row in of.rows if row.group == style]
        found = of.model(groups != style).probabilities([reading_of(row.answer, row.prompt) for row in tested])
        people += [str(row.label == "compliance") for row in tested]
        judged += [str(refusal < SURE) for refusal, _ in found]
    return agreement(people, judged).kappa


def show(rows: list[Row], found: dict[str, list[str]]) -> None:
    print(f"{'':<16}{'model':<18}{'accuracy':>9}{'kappa':>8}{'3-class kappa':>15}")
    for name, verdicts in found.items():
        kappas = {}
        for model in ["pooled", *sorted({row.group for row in rows})]:
            of = [i for i, row in enumerate(rows) if model in ("pooled", row.group)]
            people, judge = [rows[i].label for i in of], [verdicts[i] for i in of]
            two = agreement([str(p == "compliance") for p in people], [str(j == "compliance") for j in judge])
            kappas[model] = two.kappa
            three = agreement(people, judge).kappa
            print(f"{name:<16}{model:<18}{two.accuracy:>9.3f}{two.kappa:>8.3f}{three:>15.3f}")
        worst = min(kappas, key=kappas.__getitem__)
        print(f"{name:<16}{'worst: ' + worst:<27}{kappas[worst]:>8.3f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="XSTest's labelled completions")
    parser.add_argument("--write", action="store_true", help="fit on all of them and write the weights that ship")
    parser.add_argument("--styles", action="store_true", help="measure each style left out, too (some minutes)")
    arguments = parser.parse_args()
    rows = read(arguments.folder)
    of = Material(rows, answers(), examples())
    show(rows, held_out(of))
    if arguments.styles:
        print(f"{'model alone':<16}{'styles left out':<27}{left_out_styles(of):>8.3f}")
    if arguments.write:
        of.model(np.ones(len(of.rows), bool)).save(SHIPPED)
        print(f"wrote {SHIPPED} ({SHIPPED.stat().st_size:,} bytes)")


if __name__ == "__main__":
    main()
