"""Compiles training steps for TPU pods that are not there, and measures what a chip would hold and do.

  python scripts/bench/aot.py v5e:8x8 mesh.fsdp=[8,8] train.method=full    full SFT of Llama-3.1-8B, 4096 tokens a chip
  python scripts/bench/aot.py v5e:4x4 mesh.fsdp='[4,4]' train.method=lora train.remat=save-attention
  python scripts/bench/aot.py v5e:1x1 train.method=qlora train.sequence_length=2048 --reader hlo_report.py

KEY=VALUE are settings of a run. Needs libtpu; nothing is executed, and no weights are made. Memory is what XLA reports;
the compiled estimate (cycles, collectives, bound) is printed where --reader names a program that takes an HLO module as

  READER MODULE --chip KIND --model-tflops T --chips N --kernel NAME=TFLOPS ...
"""

import argparse
import dataclasses
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

os.environ["JAX_PLATFORMS"] = "cpu"

import jax

from rational_jax.config import load_config
from rational_jax.models import DecoderConfig
from rational_jax.parallel import make_mesh
from rational_jax.parallel.aot import HBM_GIB, topology_devices
from rational_jax.train.loop import jit_step
from rational_jax.train.program import make_program

GIB = 2**30


def llama(layers: int, embed: int, mlp: int, heads: int, kv_heads: int = 8, vocab: int = 128256, head: int = 128):
    return DecoderConfig(
        family="llama",
        vocab_size=vocab,
        embed_dim=embed,
        num_layers=layers,
        num_heads=heads,
        num_kv_heads=kv_heads,
        head_dim=head,
        mlp_dim=mlp,
        norm_eps=1e-5,
        rope_theta=500000.0,
        max_positions=131072,
        tie_embeddings=False,
    )


SHAPES = {
    "llama-3.1-8b": llama(32, 4096, 14336, 32),
    "llama-3.1-70b": llama(80, 8192, 28672, 64),
    "qwen3-32b": dataclasses.replace(llama(64, 5120, 25600, 64, vocab=151936), qk_norm="head"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("topology", help="KIND:AxB[xC], such as v5e:4x4")
    parser.add_argument("settings", nargs="*", metavar="KEY=VALUE")
    parser.add_argument("--shape", choices=SHAPES, default="llama-3.1-8b")
    parser.add_argument("--rows", type=int, default=1, help="sequences a chip")
    parser.add_argument("--slices", type=int, default=1)
    parser.add_argument("--reader", type=Path)
    parser.add_argument("--keep", type=Path, help="write the module here")
    parser.add_argument("--flag", action="append", default=[], metavar="NAME=VALUE", help="compiler option")
    arguments = parser.parse_args()
    kind = arguments.topology.partition(":")[0]
    devices = topology_devices(arguments.topology, arguments.slices)
    defaults = ["model.dtype=bfloat16", "train.remat=full", "train.sequence_length=4096", "train.lora.rank=16"]
    config = load_config(None, [*defaults, *arguments.settings])
    mesh = make_mesh(**config.mesh.model_dump(), devices=devices)
    shape = SHAPES[arguments.shape]
    program = make_program(config, shape, mesh, "tpu", lambda text: print("note:", text, file=sys.stderr))
    length = config.train.sequence_length
    clock = time.perf_counter()
    batch, state = program.abstract_batch(arguments.rows * len(devices), length), program.abstract_state()
    with jax.set_mesh(mesh):
        lowered = jit_step(program.train_step, mesh, state).lower(state, program.frozen, batch)
        lowering = time.perf_counter() - clock
        flags = dict(flag.split("=", 1) for flag in arguments.flag)
        compiled = lowered.compile(compiler_options=flags or None)
    compiling = time.perf_counter() - clock - lowering
    memory = compiled.memory_analysis()
    result = {
        "topology": arguments.topology,
        "settings": arguments.settings,
        "lower_seconds": round(lowering, 1),
        "compile_seconds": round(compiling, 1),
        "argument_gib": round(memory.argument_size_in_bytes / GIB, 2),
        "temp_gib": round(memory.temp_size_in_bytes / GIB, 2),
        "peak_gib": round(memory.peak_memory_in_bytes / GIB, 2),
        "limit_gib": HBM_GIB[kind],
    }
    if arguments.reader or arguments.keep:
        with tempfile.TemporaryDirectory() as folder:
            module = arguments.keep or Path(folder) / "step.hlo"
            module.write_text(compiled.as_text())
            if arguments.reader:
                tokens = arguments.rows * length
                result["estimate"] = read(arguments.reader, module, kind, len(devices), shape, config, tokens)
    print(json.dumps(result), flush=True)


def read(reader: Path, module: Path, kind: str, chips: int, shape, config, tokens: int) -> dict:
    """What the reader says of a module, given the FLOPs that the model asks for and those of the kernels."""
    matrices = (
        shape.num_layers
        * shape.embed_dim
        * (2 * shape.head_dim * (shape.num_heads + shape.num_kv_heads) + 3 * shape.mlp_dim)
    )
    matrices += shape.vocab_size * shape.embed_dim
    # Forward and backward pass, without the gradients of frozen matrices; attention is causal.
    linear = (6 if config.train.method == "full" else 4) * matrices * tokens
    length = config.train.sequence_length
    attention = 12 * shape.num_layers * shape.num_heads * shape.head_dim * length / 2 * tokens
    # Of a causal block of 512, half of what lies on the diagonal is computed in vain.
    block = min(512, length)
    square = 2 * shape.num_heads * shape.head_dim * length * (length + block) / 2 * (tokens / length)
    kernels = {"splash_mha_fwd": 2, "splash_mha_dq": 3, "splash_mha_dkv": 4}
    command = [sys.executable, str(reader), str(module), "--chip", kind, "--chips", str(chips)]
    command += ["--model-tflops", str((linear + attention) / 1e12)]
    for name, products in kernels.items():
        command += ["--kernel", f"{name}={products * square / 1e12}"]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


if __name__ == "__main__":
    main()
