"""Plans the steps in scripts/bench/results/aot.md: Llama and Qwen shapes compiled for TPU pods that are not there.

  python scripts/bench/aot.py v5e:8x8 configs/llama3.1-8b-full.yaml train.batch_size=64
  python scripts/bench/aot.py v5e:4x4 configs/llama3.1-8b-lora.yaml train.remat=save-attention
  python scripts/bench/aot.py v5e:8x8 configs/llama3.1-8b-lora.yaml --shape llama-3.1-70b train.batch_size=64

It is `rational plan --json` on a shape whose config.json needs no download. Needs libtpu; nothing is executed and no
weights are made. The bound is checked by another program where --reader names one that takes an HLO module as

  READER MODULE --chip KIND --model-tflops T --chips N --kernel NAME=TFLOPS ...
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

os.environ["JAX_PLATFORMS"] = "cpu"

from rational_jax import hub
from rational_jax.config import load_config
from rational_jax.models.flops import splash_flops
from rational_jax.workflow import plan


def shape(family: str, layers: int, embed: int, mlp: int, heads: int, vocab: int = 128256) -> dict:
    return {
        "model_type": family,
        "hidden_size": embed,
        "intermediate_size": mlp,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "vocab_size": vocab,
        "max_position_embeddings": 131072,
        "rms_norm_eps": 1e-5,
        "rope_theta": 500000.0,
        "tie_word_embeddings": False,
    }


SHAPES = {
    "llama-3.1-8b": shape("llama", 32, 4096, 14336, 32),
    "llama-3.1-70b": shape("llama", 80, 8192, 28672, 64),
    "qwen3-32b": shape("qwen3", 64, 5120, 25600, 64, vocab=151936),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("topology", help="KIND:AxB[xC], such as v5e:4x4")
    parser.add_argument("config", type=Path, help="a configuration")
    parser.add_argument("settings", nargs="*", metavar="KEY=VALUE", help="changes to it")
    parser.add_argument("--shape", choices=SHAPES, default="llama-3.1-8b")
    parser.add_argument("--slices", type=int, default=1)
    parser.add_argument("--reader", type=Path)
    parser.add_argument("--keep", type=Path, help="write the module here")
    arguments = parser.parse_intermixed_args()
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "config.json").write_text(json.dumps(SHAPES[arguments.shape]))
        config = load_config(arguments.config, [*arguments.settings, f"model.name={folder}"])
        module = arguments.keep or Path(folder) / "step.hlo"
        made = plan.run(config, arguments.topology, arguments.slices, module=module)
        result = {"shape": arguments.shape, "settings": arguments.settings} | made.to_json()
        if arguments.reader and made.fits:
            kernels = splash_flops(hub.load_config(Path(folder)), config.train.sequence_length)
            rows = config.train.batch_size / config.train.micro_batches / made.chips
            command = [sys.executable, str(arguments.reader), str(module), "--chips", str(made.chips)]
            command += ["--chip", arguments.topology.partition(":")[0], "--model-tflops", str(made.model_flops / 1e12)]
            for name, flops in kernels.items():
                command += ["--kernel", f"{name}={rows * flops / 1e12}"]
            found = subprocess.run(command, check=True, capture_output=True, text=True)
            result["reader"] = json.loads(found.stdout)
    print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
