"""Runs the `rational` command and writes down which rows it read and which it was given; used by test_processes.py.

    python fleet.py DIRECTORY VERB [ARGUMENTS ...]

DIRECTORY gets `<process>.jsonl`, one row a batch: its step, the rows read, and the SHA-256 of each row on this
process's devices. With DYING=N in the environment process 1 kills itself (SIGKILL) while step N is being saved. With
PREEMPTED=N it sends itself SIGTERM when it reads the batch of step N, and all batches from then on take a second.
"""

import hashlib
import json
import os
import signal
import sys
import time
from collections.abc import Mapping
from pathlib import Path


def row_hash(arrays: Mapping[str, bytes]) -> str:
    """Of one row's arrays by their names."""
    return hashlib.sha256(b"".join(arrays[name] for name in sorted(arrays))).hexdigest()


def watched(directory: Path) -> None:
    import numpy as np

    from rational_jax.checkpoint import Checkpoints
    from rational_jax.data.batches import Batches

    batch, placed, save = Batches.batch, Batches.placed, Checkpoints.save
    read: set[int] = set()

    def reading(self, step, part=slice(None)):
        read.update(range(self.batch_size)[part])
        return batch(self, step, part)

    def watching(self, step, sharding):
        import jax

        preempted = int(os.environ.get("PREEMPTED", 1 << 30))
        if step == preempted and jax.process_index() == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        if step > preempted:
            time.sleep(1)
        read.clear()
        arrays = placed(self, step, sharding)
        rows: dict[int, dict[str, bytes]] = {}
        for name, array in arrays.items():
            for shard in array.addressable_shards:
                first = shard.index[0].start or 0
                for number, row in enumerate(np.asarray(shard.data), start=first):
                    rows.setdefault(number, {})[name] = row.tobytes()
        hashes = {number: row_hash(parts) for number, parts in rows.items()}
        with (directory / f"{jax.process_index()}.jsonl").open("a") as file:
            file.write(json.dumps({"step": step, "read": sorted(read), "rows": hashes}) + "\n")
        return arrays

    def saving(self, step, tree, metadata):
        import jax

        save(self, step, tree, metadata)
        if os.environ.get("DYING") == str(step) and jax.process_index() == 1:
            os.kill(os.getpid(), signal.SIGKILL)

    Batches.batch, Batches.placed, Checkpoints.save = reading, watching, saving


if __name__ == "__main__":
    # Already set, so that the command does not start its process over without the changes.
    os.environ.setdefault("GLIBC_TUNABLES", "glibc.malloc.hugetlb=1")
    sys.modules["torch"] = None  # as if it were not installed: transformers would import it, which takes seconds
    from rational_jax.cli import main

    watched(Path(sys.argv.pop(1)))
    main()
