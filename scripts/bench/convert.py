"""Memory and speed of loading and exporting, for a checkpoint of any shape made of random bfloat16 weights.

Makes the checkpoint and a finished LoRA run on it in a folder, and measures, each in a process of its own: `cp` of the
files, `load_params`, `rational export` of the merged model without the gate, and of merged model and adapter with it.
Needs disk for two checkpoints and, to load, memory for one. Files are dropped from the page cache before each.

    python scripts/bench/convert.py
    python scripts/bench/convert.py --shape llama-3.1-8b --out /data/bench --json
    python scripts/bench/convert.py --shape llama-3.1-8b --layers 8 --steps cp export
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import shapes

STEPS = ("cp", "load", "export", "gate")
GIB = 2**30
REPOSITORY = Path(__file__).parents[2]


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    shapes.add_arguments(parser, default="llama-100m")
    parser.add_argument("--rank", type=int, default=16, help="of LoRA, on all linear layers (default 16)")
    parser.add_argument("--out", type=Path, help="folder for the files, removed afterwards (default: a temporary one)")
    parser.add_argument("--steps", nargs="+", choices=STEPS, default=STEPS, help="what to measure (default: all)")
    parser.add_argument("--repeats", type=int, default=1, help="fastest times and median ratios of so many turns")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    parser.add_argument("--child", choices=("make", "load"), help=argparse.SUPPRESS)
    return parser.parse_args()


def make(args) -> None:
    """The checkpoint, tensor by tensor, and what `rational train` would leave after a LoRA run on it."""
    import dataclasses

    import jax
    import jax.numpy as jnp
    import numpy as np

    from rational_jax import hub
    from rational_jax.checkpoint import Checkpoints
    from rational_jax.config import load_config
    from rational_jax.manifest import Stage
    from rational_jax.models import LoraConfig, init_lora

    random = np.random.default_rng(0)

    class RandomWeights(hub.Weights):
        """Norms of one, all else of random sign and fraction between 2^-7 and 2^-5."""

        def dtype(self, path, number):
            return jnp.dtype(jnp.bfloat16)

        def rows(self, path, number, start, stop):
            shape = (stop - start, *self.piece_shape(path)[1:])
            if len(shape) == 1:
                return np.ones(shape, jnp.bfloat16)
            bits = random.integers(0, 2**16, shape, np.uint16)
            return ((bits & 0x80FF) | (120 << 7)).view(jnp.bfloat16)

    config = shapes.decoder_config(args)
    model = args.out / "model"
    hub.save_model(model, config, RandomWeights(config))
    settings = load_config(None, words(args))
    lora = LoraConfig(rank=args.rank, alpha=2.0 * args.rank)
    abstract = jax.eval_shape(lambda: init_lora(config, lora, jax.random.key(0)))
    factors = jax.tree.map(lambda leaf: random.standard_normal(leaf.shape, np.float32) * 0.01, abstract)
    stage = Stage.open(
        Path(settings.run) / "train" / "rational",
        verb="train",
        settings={"train": settings.train.model_dump(mode="json"), "chat": settings.chat.model_dump(mode="json")},
        inputs={"curate": "0" * 64},
    )
    made = {"method": "lora", "lora": dataclasses.asdict(lora), "base": hub.identity(model)}
    with Checkpoints(stage.directory / "checkpoints") as checkpoints:
        checkpoints.save(1, {"trainable": factors, "opt_state": None, "step": np.int32(1)}, made)
    stage.finish(outputs={}, figures={})


def words(args, *changes: str) -> list[str]:
    return [f"run={args.out / 'run'}", f"model.name={args.out / 'model'}", *changes]


def load(args) -> None:
    """Loads the checkpoint and prints the bytes of its arrays."""
    import jax

    from rational_jax import hub

    params = hub.load_params(args.out / "model", hub.load_config(args.out / "model"))
    print(sum(leaf.nbytes for leaf in jax.tree.leaves(params)))


def measured(command: list[str], args) -> dict:
    """Seconds, processor time, peak bytes of memory and last line of output of a command that succeeds."""
    drop_from_cache(args.out)
    # The kernel keeps its hands off the other processes of this machine where the memory does not suffice.
    command = ["sh", "-c", 'echo 1000 > /proc/self/oom_score_adj; exec "$@"', "sh", *command]
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(REPOSITORY), os.environ.get("PYTHONPATH", "")]),
        "RATIONAL_CACHE": str(args.out / "cache"),
    }
    started = time.perf_counter()
    with tempfile.TemporaryFile("w+") as output:
        process = subprocess.Popen(command, env=environment, stdout=output)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - started
        output.seek(0)
        lines = output.read().splitlines()
    if code := os.waitstatus_to_exitcode(status):
        sys.exit(f"{' '.join(command[4:])}: exit code {code}")
    return {
        "seconds": seconds,
        "cpu_seconds": usage.ru_utime + usage.ru_stime,
        "peak_bytes": usage.ru_maxrss * 1024,
        "output": lines[-1] if lines else "",
    }


def drop_from_cache(folder: Path) -> None:
    for file in folder.rglob("*.safetensors"):
        with file.open("rb") as handle:
            os.fsync(handle.fileno())
            os.posix_fadvise(handle.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def child(name: str, args) -> list[str]:
    sizes = [f"--{option}={getattr(args, size)}" for option, size in shapes._OPTIONS.items() if getattr(args, size)]
    given = [f"--shape={args.shape}", *sizes, f"--rank={args.rank}", f"--out={args.out}"]
    return [sys.executable, "-W", "ignore", str(Path(__file__)), "--child", name, *given]


def export(args, *changes: str) -> dict:
    shutil.rmtree(args.out / "run" / "export", ignore_errors=True)
    command = [sys.executable, "-m", "rational_jax.cli", "export", "--arm", "rational"]
    return measured([*command, *words(args, *changes)], args)


def copy(args) -> dict:
    found = measured(["cp", "-r", str(args.out / "model"), str(args.out / "copy")], args)
    shutil.rmtree(args.out / "copy")
    return found


def measure(args) -> dict:
    args.out.mkdir(parents=True, exist_ok=True)
    measured(child("make", args), args)
    size = sum(file.stat().st_size for file in (args.out / "model").glob("*.safetensors"))
    steps = {
        "cp": lambda: copy(args),
        "load": lambda: measured(child("load", args), args),
        "export": lambda: export(args, "export.verify=off", "export.adapter=false"),
        "gate": lambda: export(args, "export.verify=layerwise"),
    }
    # Turn by turn: what the machine does besides changes from minute to minute.
    runs = [{name: steps[name]() for name in args.steps} for _ in range(args.repeats)]
    figures = {"shape": args.shape, "bytes": size}
    for name in args.steps:
        best = min((run[name] for run in runs), key=lambda found: found["seconds"])
        figures[name] = {
            "seconds": best["seconds"],
            "cpu_seconds": best["cpu_seconds"],
            "bytes_per_second": size / best["seconds"],
            "peak_bytes": max(run[name]["peak_bytes"] for run in runs),
        }
        if "cp" in args.steps:
            ratios = (run["cp"]["seconds"] / run[name]["seconds"] for run in runs)
            figures[name]["times_cp"] = statistics.median(ratios)
        if name == "load":
            figures[name]["peak_bytes_over_arrays"] = figures[name]["peak_bytes"] - int(best["output"])
    return figures


def described(figures: dict) -> str:
    lines = [f"{figures['shape']}: {figures['bytes'] / GIB:.2f} GiB of bfloat16 weights"]
    for name in STEPS:
        if found := figures.get(name):
            over = f", {found['peak_bytes_over_arrays'] / GIB:.2f} over the arrays" if name == "load" else ""
            ratio = f", {found['times_cp']:.2f} of cp" if "times_cp" in found else ""
            lines.append(
                f"{name:7}{found['seconds']:7.1f} s, {found['bytes_per_second'] / GIB:.2f} GiB/s{ratio}, "
                f"{found['cpu_seconds']:.0f} s of CPU, "
                f"peak {found['peak_bytes'] / GIB:.2f} GiB{over}"
            )
    return "\n".join(lines)


if __name__ == "__main__":
    options = arguments()
    if options.child:
        {"make": make, "load": load}[options.child](options)
    else:
        # A folder of its own, which can be removed as a whole.
        with tempfile.TemporaryDirectory(prefix="convert-", dir=options.out) as folder:
            options.out = Path(folder)
            result = measure(options)
        print(json.dumps(result) if options.json else described(result))
