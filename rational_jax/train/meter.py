"""How fast a run is and where its time goes."""

from __future__ import annotations

import collections
import dataclasses
import time
from collections.abc import Iterator
from contextlib import contextmanager

import jax

from rational_jax.parallel.hlo import CHIPS, GIB

INPUT, COMPILE, STEP, CHECKPOINT, WATCH = "input", "compile", "step", "checkpoint", "watch"
IDLE = "idle"

# bf16 FLOPs a second by JAX's name of the device, dense. Of TPUs as in the estimates of `rational plan`.
_PEAKS = {
    "TPU v4": CHIPS["v4"].peak,
    "TPU v5 lite": CHIPS["v5e"].peak,
    "TPU v5": CHIPS["v5p"].peak,
    "TPU v5p": CHIPS["v5p"].peak,
    "TPU v6 lite": CHIPS["v6e"].peak,
    "NVIDIA A100": 312e12,
    "NVIDIA H100": 989e12,
    "NVIDIA H200": 989e12,
}


def peak_flops(device_kind: str) -> float | None:
    """What a device of that name does at most, in bf16 FLOPs a second; None where this table does not know it."""
    # JAX's names of GPUs go on with their memory and form.
    names = [n for n in _PEAKS if n == device_kind or (n.startswith("NVIDIA") and device_kind.startswith(f"{n} "))]
    return _PEAKS[names[0]] if names else None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Speed:
    """Turns tokens and seconds into figures of one chip.

    `flops` is what the model asks for a token in a full row (`models.flops.model_flops`: 6 a matrix parameter, or 4
    where it is frozen, and causal attention; recomputation does not count). MFU = flops x tokens a second and chip /
    peak. Padding is no token.
    """

    chips: int
    flops: float | None = None
    peak: float | None = None

    def figures(self, tokens: float, seconds: float) -> dict[str, float]:
        """`tokens_per_second` of all chips and of one, and `mfu` where the model's FLOPs and the peak are known."""
        rate = tokens / seconds
        found = {"tokens_per_second": rate, "tokens_per_second_per_chip": rate / self.chips}
        if self.flops and self.peak:
            found["mfu"] = self.flops * rate / self.chips / self.peak
        return found


class Clock:
    """The seconds of a run by what they were spent on: the host's, who waits for what is being done.

    `step` is computing, `input` waiting for a batch, `compile` the first call of the step, `checkpoint` copying a state
    (and waiting for the save before), `watch` held-out losses and samples; `idle` is all else.
    """

    def __init__(self):
        self._began = time.perf_counter()
        self._seconds: collections.Counter[str] = collections.Counter()

    @contextmanager
    def spent_on(self, what: str) -> Iterator[None]:
        """Books the time of a block."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self.book(what, time.perf_counter() - began)

    def book(self, what: str, seconds: float) -> None:
        """Adds time that was measured elsewhere."""
        self._seconds[what] += seconds

    def figures(self) -> dict[str, float]:
        """`seconds/...` so far, and `goodput`: the share of all time that was spent on steps."""
        total = time.perf_counter() - self._began
        kinds = (STEP, INPUT, COMPILE, CHECKPOINT, WATCH)
        found = {f"seconds/{kind}": self._seconds[kind] for kind in kinds}
        found[f"seconds/{IDLE}"] = total - sum(found.values())
        return found | {"goodput": self._seconds[STEP] / total}


def memory() -> dict[str, float]:
    """`memory_gib`: the most that any of this process's devices has held; nothing where they do not tell (CPU)."""
    held = [
        stats["peak_bytes_in_use"]
        for d in jax.local_devices()
        if "peak_bytes_in_use" in (stats := d.memory_stats() or {})
    ]
    return {"memory_gib": max(held) / GIB} if held else {}
