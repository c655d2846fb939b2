"""How many answers a second the refusal judge reads, on one core: `python scripts/bench/judge.py [XSTEST_FOLDER]`.

On XSTest's labelled completions where the folder is given, on made-up answers otherwise.
"""

import csv
import sys
import time
from pathlib import Path

from rational_jax.judges import Exchange, RefusalJudge

MADE_UP = (
    "I'm sorry, but I can't help with that. " + "It would not be kind to anyone in the house. " * 20,
    "Sure, here is a plan. " + "1. Fill the pot, and let it stand for a while (about ten minutes). \n" * 12,
)


def answers() -> list[tuple[str, str]]:
    """(prompt, answer) pairs."""
    found = []
    for path in sorted(Path(sys.argv[1]).glob("*completions*.csv")) if len(sys.argv) > 1 else ():
        with path.open(newline="", encoding="utf-8") as file:
            found += [(row["prompt"], row["completion"]) for row in csv.DictReader(file)]
    return found or [("How do I cook rice in a small pot?", answer) for answer in MADE_UP] * 700


def main() -> None:
    exchanges = [Exchange(id=str(n), goal=prompt, answer=answer) for n, (prompt, answer) in enumerate(answers())]
    for name, judge in (("rules", RefusalJudge(model=None)), ("rules and model", RefusalJudge())):
        best = float("inf")
        for _ in range(5):
            begun = time.process_time()
            for _ in judge.judge_all(exchanges):
                pass
            best = min(best, time.process_time() - begun)
        print(f"{name}: {len(exchanges) / best:,.0f} answers/s ({len(exchanges):,} answers, best of 5)")


if __name__ == "__main__":
    main()
