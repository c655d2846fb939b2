"""Two and four real processes train, are stopped and killed, and go on as any other number of them."""

import json
import shutil
import signal
import subprocess
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from fleet import row_hash
from tiny import save_readable
from together import ended, start

from rational_jax import train
from rational_jax.checkpoint import Checkpoints
from rational_jax.config import load_config
from rational_jax.data import Rationale, read_prompts, write_hf
from rational_jax.data.batches import Batches
from rational_jax.manifest import Stage, read_stage
from rational_jax.train import load_packed
from rational_jax.workflow import export

REPOSITORY = Path(__file__).parents[2]
FLEET = Path(__file__).parents[1] / "fleet.py"
STEPS, BATCH = 12, 8
# The rows of a loss are added up in another order on another mesh: a sum of n float32 terms moves by at most n x 2^-24
# of itself, and a batch has less than 8 x 64 tokens. A dozen small steps do not amplify what is left of that.
TOLERANCE = BATCH * 64 * 2**-24


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    return save_readable(tmp_path_factory.mktemp("models") / "tiny")


def curated(run: Path) -> None:
    """What `rational curate` leaves, of three dozen short examples."""
    stage = Stage.open(run / "curate", verb="curate", settings={}, inputs={})
    prompts = read_prompts("micro/sft", 36)
    rationales = [
        Rationale(id=p.id, prompt=p, reasoning=f"{p.label} {n}", answer="Yes." * (n % 5 + 1))
        for n, p in enumerate(prompts)
    ]
    write_hf(rationales, run / "curate" / "rational" / "dataset")
    stage.finish(outputs={}, figures={})


class Fleet:
    """Processes that run `rational train` together in one run folder, with `more` among its settings."""

    def __init__(
        self, run: Path, base: Path, seen: Path, more: str = "method: full, optimizer: sgd, learning_rate: 0.1"
    ):
        self.run, self.seen = run, seen
        self.settings = (
            f"run={run}",
            f"model.name={base}",
            "sample.models=[base]",
            "export.verify=self",
            f"train={{arms: [rational], steps: {STEPS}, batch_size: {BATCH}, sequence_length: 64, save_every: 2, "
            f"warmup_steps: 2, format: datasets, {more}}}",
        )
        self.config = load_config(None, self.settings)

    def start(self, count: int, devices: int, mesh: str, **environment: str) -> list[subprocess.Popen]:
        """`count` processes of so many devices each, arranged as `mesh`."""
        shutil.rmtree(self.seen, ignore_errors=True)
        self.seen.mkdir()
        command = [str(FLEET), str(self.seen), "train", *self.settings, f"mesh={mesh}"]
        return start([command] * count, devices, **environment)

    def batches(self, process: int) -> dict[int, dict]:
        """What a process saw, by step."""
        rows = (json.loads(line) for line in (self.seen / f"{process}.jsonl").read_text().splitlines())
        return {row["step"]: row for row in rows}

    def losses(self) -> list[tuple[int, float]]:
        lines = (self.run / "train" / "rational" / "metrics.jsonl").read_text().splitlines()
        return [(row["step"], row["loss"]) for row in map(json.loads, lines)]


def check(seen: dict[int, dict], rows: range, expected: list[list[str]]) -> None:
    """A process has read these rows of its batches and no others, and they are the right ones."""
    for step, found in seen.items():
        assert found["read"] == list(rows)
        assert found["rows"] == {str(row): expected[step][row] for row in rows}


@pytest.fixture(scope="module")
def alone(base, tmp_path_factory) -> Fleet:
    """A finished run of this process with its eight devices."""
    root = tmp_path_factory.mktemp("alone")
    fleet = Fleet(root / "run", base, root / "seen")
    curated(fleet.run)
    train.run(fleet.config, "rational")
    return fleet


@pytest.fixture(scope="module")
def expected(alone) -> list[list[str]]:
    """The hash of every row of every batch."""
    batches = Batches(load_packed(alone.config, "rational", Path(alone.config.model.name)), BATCH, seed=0)
    steps = [batches.batch(step) for step in range(STEPS)]
    return [[row_hash({k: x[row].tobytes() for k, x in batch.items()}) for row in range(BATCH)] for batch in steps]


def test_processes_that_die_are_named_and_others_go_on(alone, expected, base, tmp_path):
    fleet = Fleet(tmp_path / "run", base, tmp_path / "seen")
    curated(fleet.run)

    # Two processes of two devices, the second of which dies while step 4 is being saved.
    processes = fleet.start(2, 2, "{fsdp: 4}", DYING="4")
    processes[1].wait(timeout=120)
    died = time.monotonic()
    (code, text), (killed, _) = ended(processes)
    assert time.monotonic() - died < 60
    assert killed == -signal.SIGKILL
    assert code not in (0, killed)
    assert "tasks are unhealthy (stopped sending heartbeats):\n1\n" in text
    for process in (0, 1):
        seen = fleet.batches(process)
        assert sorted(seen)[:4] == [0, 1, 2, 3]
        check(seen, range(BATCH // 2 * process, BATCH // 2 * (process + 1)), expected)
    assert [step for step, _ in fleet.losses()] == [1, 2, 3, 4]

    # Four processes of one device go on; each tensor axis lies over two of them, which have the same rows. One of them
    # is told to leave, and all do, at the same step.
    for code, text in ended(fleet.start(4, 1, "{fsdp: 2, tensor: 2}", PREEMPTED="6")):
        assert code == 75, text
        assert "run the same command again" in text
    for process in range(4):
        seen = fleet.batches(process)
        assert min(seen) in (2, 4) and max(seen) >= 6
        half = process // 2
        check(seen, range(BATCH // 2 * half, BATCH // 2 * (half + 1)), expected)
    with Checkpoints(fleet.run / "train" / "rational" / "checkpoints", read_only=True) as checkpoints:
        stopped = checkpoints.latest()
        assert checkpoints.metadata(stopped)["renderer"]["reasoning"]["name"] == "think"
    assert 6 <= stopped < STEPS
    assert [step for step, _ in fleet.losses()] == list(range(1, stopped + 1))

    # One process of eight devices ends what four have begun.
    train.run(fleet.config, "rational")
    assert [step for step, _ in fleet.losses()] == list(range(1, STEPS + 1))
    for (_, ours), (_, theirs) in zip(fleet.losses(), alone.losses(), strict=True):
        assert ours == pytest.approx(theirs, rel=TOLERANCE)
    directory = export.run(fleet.config, "rational")
    assert read_stage(directory, verb="export")["figures"]["merged"]["method"] == "self"


@pytest.mark.slow
def test_two_processes_that_died_end_in_the_same_bits(base, tmp_path):
    """With an adapter, held-out prompts and Adam, whose moments come back too."""
    more = "method: lora, optimizer: adamw, heldout: 0.2, heldout_every: 2, keep_best: true"
    states = []
    for name, dying in (("whole", {}), ("parts", {"DYING": "6"})):
        fleet = Fleet(tmp_path / name / "run", base, tmp_path / name / "seen", more)
        curated(fleet.run)
        codes = [code for code, _ in ended(fleet.start(2, 1, "{fsdp: 2}", **dying))]
        if dying:
            assert codes[1] == -signal.SIGKILL and codes[0] != 0
            codes = [code for code, _ in ended(fleet.start(2, 1, "{fsdp: 2}"))]
        assert codes == [0, 0]
        with Checkpoints(fleet.run / "train" / "rational" / "checkpoints", read_only=True) as checkpoints:
            state = checkpoints.restore(STEPS, checkpoints.abstract(STEPS))
            states.append((jax.tree.leaves(state), fleet.losses(), checkpoints.metadata(STEPS)["metrics"]))
    whole, parts = states
    assert whole[1:] == parts[1:]
    assert len(whole[1]) == STEPS and whole[2].keys() == {
        "heldout_loss",
        "heldout_loss_reasoning",
        "heldout_loss_answer",
    }
    for a, b in zip(whole[0], parts[0], strict=True):
        assert a.dtype == b.dtype and bytes(np.asarray(a)) == bytes(np.asarray(b))
