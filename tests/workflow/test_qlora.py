"""`rational train` with train.method=qlora and `rational export` after it, on the micro model."""

import json
from pathlib import Path

import pytest

from rational_jax import curate, hub, train
from rational_jax.checkpoint import Checkpoints
from rational_jax.config import load_config
from rational_jax.manifest import read_stage
from rational_jax.workflow import export

CONFIG = Path(__file__).parents[2] / "configs" / "ci.yaml"


@pytest.mark.slow
def test_trained_over_nf4_and_exported_for_the_original(tmp_path):
    config = load_config(
        CONFIG,
        [
            f"run={tmp_path / 'run'}",
            "train={method: qlora, arms: [rational], steps: 6, lora: {rank: 4, layers: [0, 2], dropout: 0.1}}",
            "sample.models=[base]",
            "mesh={replica: -1, fsdp: 1}",  # rows of 128 elements have two blocks, which do not divide by eight
        ],
    )
    curate.run(config)
    train.run(config, "rational")
    with Checkpoints(tmp_path / "run" / "train" / "rational" / "checkpoints", read_only=True) as checkpoints:
        step = checkpoints.latest()
        assert checkpoints.metadata(step)["quantize"] == "nf4"
        kept = checkpoints.abstract(step)["trainable"]["layers"]
    assert {name for block in kept.values() for matrix in block.values() for name in matrix} == {"lora_a", "lora_b"}

    directory = export.run(config, "rational")
    figures = read_stage(directory, verb="export")["figures"]
    assert figures["merged"]["method"] == "transformers" and figures["adapter"]["method"] == "peft"
    assert 1e-3 < figures["merged"]["from_quantized"] < 0.5
    base = hub.resolve("micro")
    adapter = hub.load_adapter(directory / "adapter", hub.load_config(base))
    assert (adapter.lora.rank, adapter.lora.layers, adapter.lora.dropout) == (4, (0, 2), 0.1)
    written = json.loads((directory / "adapter" / "adapter_config.json").read_text())
    assert written["layers_to_transform"] == [0, 2]
