"""Compiles the training step of the paper's configurations for three TPUs, and writes or compares what it takes.

    python scripts/plan_paper.py                     # compare with configs/paper/plans.json
    python scripts/plan_paper.py --write
    python scripts/plan_paper.py --models shapes     # shapes/OWNER/NAME/config.json, where the Hub is out of reach

Needs libtpu and no TPU; some minutes a program. Configurations that differ only in their data share one. The exit code
of a comparison is 1 where memory, the bound of MFU or the FLOPs of a program have moved by more than TOLERANCE.
"""

import argparse
import json
import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

from rational_jax.config import RunConfig, load_config

PAPER = Path(__file__).parents[1] / "configs" / "paper"
PLANS = PAPER / "plans.json"
TOPOLOGIES = ("v5e:4x4", "v6e:2x4", "v5p:2x2x1")
TOLERANCE = 0.03
COMPARED = ("peak_gib", "bound", "matmul_tflops")
# What differs between two compilations of one program.
_CLOCKS = ("lower_seconds", "compile_seconds")


def programs() -> list[tuple[RunConfig, list[str]]]:
    """The configurations whose programs differ, each with the names of all that share its program."""
    found: dict[str, tuple[RunConfig, list[str]]] = {}
    for file in sorted(PAPER.glob("*.yaml")):
        config = load_config(file)
        settings = config.model_dump(mode="json", include={"model", "mesh", "train"})
        key = json.dumps(settings | {"train": settings["train"] | {"arms": None, "data": None}}, sort_keys=True)
        found.setdefault(key, (config, []))[1].append(file.stem)
    return list(found.values())


def planned(name: str, topology: str, models: Path | None, model: str) -> dict:
    """The output of `rational plan --json` for a configuration, but for the clock."""
    command = [sys.executable, "-m", "rational_jax.cli", "plan", str(PAPER / f"{name}.yaml"), "--json"]
    command += ["--topology", topology] + ([f"model.name={models / model}"] if models else [])
    done = subprocess.run(command, env=os.environ | {"JAX_PLATFORMS": "cpu"}, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{name} on {topology}: {done.stderr.strip()}")
    return {key: value for key, value in json.loads(done.stdout).items() if key not in _CLOCKS}


def drifts(before: dict, now: dict) -> list[str]:
    """Sentences about each figure that has moved by more than TOLERANCE."""
    return [
        f"{name} was {before[name]} and is {now[name]}"
        for name in COMPARED
        if (before[name] is None) != (now[name] is None)
        or (now[name] is not None and abs(now[name] - before[name]) > TOLERANCE * abs(before[name]))
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="write the file in place of comparing with it")
    parser.add_argument("--models", type=Path, metavar="FOLDER", help="holds OWNER/NAME/config.json")
    options = parser.parse_args()
    made, moved = [], 0
    stored = {} if options.write else json.loads(PLANS.read_text())
    for config, names in programs():
        for topology in TOPOLOGIES:
            plan = planned(names[0], topology, options.models and options.models.absolute(), config.model.name)
            made.append({"configurations": names, **plan})
            bound = plan["unknown"] if plan["bound"] is None else f"at most {plan['bound']:.1f}% MFU"
            print(f"{names[0]} {topology}: {plan['peak_gib']:.2f} GiB, {bound}", flush=True)
            for before in stored.get("plans", ()):
                if names[0] in before["configurations"] and before["topology"] == topology:
                    for sentence in drifts(before, plan):
                        moved += 1
                        print(f"  {sentence} (libtpu {stored['libtpu']} then, {version('libtpu')} now)")
                    break
            else:
                moved += not options.write
    if options.write:
        PLANS.write_text(
            json.dumps({"libtpu": version("libtpu"), "jax": version("jax"), "plans": made}, indent=1) + "\n"
        )
    sys.exit(moved > 0)


if __name__ == "__main__":
    main()
