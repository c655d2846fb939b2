"""What a run writes down as it goes: `metrics.jsonl` and TensorBoard events, cut back to the step it resumes from."""

import json
import math
from pathlib import Path

from rational_jax.storage import JsonlLog, atomic_write_text


class MetricsLog:
    """One row a step in `metrics.jsonl`, and as TensorBoard scalars. A value that is not finite is null in JSON."""

    def __init__(self, directory: Path, *, resumed_step: int):
        from tensorboardX import SummaryWriter

        path = directory / "metrics.jsonl"
        if path.exists():
            # The steps after the restored checkpoint are taken again; their old rows would stand twice.
            with JsonlLog(path) as log:
                kept = [row for row in log.records() if row["step"] <= resumed_step]
            atomic_write_text(path, "".join(json.dumps(row) + "\n" for row in kept))
        self._rows = JsonlLog(path)
        events = directory / "tensorboard"
        self._events = SummaryWriter(str(events), purge_step=resumed_step + 1 if events.exists() else None)

    def write(self, step: int, values: dict[str, float]) -> None:
        """Adds one step's values; they are on disk when this returns."""
        self._rows.append({"step": step} | {k: v if math.isfinite(v) else None for k, v in values.items()})
        self._rows.flush()
        for name, value in values.items():
            if math.isfinite(value):
                self._events.add_scalar(name, value, step)

    def write_text(self, step: int, name: str, text: str) -> None:
        """A text in Markdown, for TensorBoard alone."""
        self._events.add_text(name, text, step)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._rows.close()
        self._events.close()
