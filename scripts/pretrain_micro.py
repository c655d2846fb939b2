"""Makes the micro model: tokenizer, prompts and weights, and checks the gates before anything is written.

python scripts/pretrain_micro.py                  # into rational_jax/micro, if all gates are passed
python scripts/pretrain_micro.py --out /tmp/micro --steps 200 --force
"""

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

import jax
import jax.numpy as jnp

import rational_jax
from rational_jax import hub, models
from rational_jax.cli.process import use_huge_pages
from rational_jax.cli.progress import TerminalProgress
from rational_jax.config import TrainSection
from rational_jax.data.batches import Batches
from rational_jax.data.packing import Packed, pack
from rational_jax.parallel import AxisRules, make_mesh, shardings
from rational_jax.sample import Engine
from rational_jax.text.chat import Renderer
from rational_jax.text.reasoning import THINK
from rational_jax.train import compile_step, fit, init_state, make_optimizer, make_train_step
from rational_jax.workflow.micro_world.corpus import Corpus
from rational_jax.workflow.micro_world.gates import measure_gates
from rational_jax.workflow.micro_world.prompts import write_prompts
from rational_jax.workflow.micro_world.tokenizer import build_tokenizer, examples, save_tokenizer
from rational_jax.workflow.micro_world.world import World, build_world

PACKAGED = Path(rational_jax.__file__).parent / "micro"
LENGTH = 256
MOST_BYTES = 3_000_000


def main() -> int:
    """Returns 0 where the weights were written, 1 where a gate failed."""
    options = _options()
    started = time.monotonic()
    progress = TerminalProgress()
    world = build_world(options.world)
    tokenizer = build_tokenizer(world)
    if options.prompts_only:
        write_prompts(world, options.out / "prompts")
        return 0

    config = models.DecoderConfig(
        family="llama",
        vocab_size=len(tokenizer),
        embed_dim=128,
        num_layers=4,
        num_heads=4,
        num_kv_heads=2,
        head_dim=32,
        mlp_dim=512,
        norm_eps=1e-5,
        rope_theta=10_000.0,
        max_positions=512,
        tie_embeddings=True,
    )
    packed = read_corpus(world, tokenizer, rows=options.steps * options.batch, seed=options.seed)
    progress.message(f"corpus: {packed.report.examples:,} documents, {packed.report.tokens:,} tokens")
    params = pretrain(config, packed, options, progress)
    # The gates are about what ships, so they are measured on the rounded weights.
    params = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), params)
    execution = models.execution_for(jax.default_backend())
    engine = Engine(
        config,
        jax.tree.map(lambda leaf: leaf.astype(jnp.float32), params),
        Renderer(tokenizer, THINK),
        max_length=LENGTH,
        execution=execution,
    )
    gates = measure_gates(world, engine.generate)
    for gate in gates:
        progress.message(str(gate))
    progress.message(f"{time.monotonic() - started:.0f} s")
    if not all(gate.passed for gate in gates) and not options.force:
        progress.message("nothing was written: a gate failed (--force writes nevertheless)")
        return 1

    write_prompts(world, options.out / "prompts")
    with tempfile.TemporaryDirectory() as scratch:
        source = Path(scratch)
        save_tokenizer(tokenizer, source)
        ends = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
        described = hub.families.write_config(config) | ends | {"pad_token_id": tokenizer.pad_token_id}
        _write_json(source / "config.json", described)
        _write_json(source / "generation_config.json", ends | {"pad_token_id": tokenizer.pad_token_id})
        hub.save_model(options.out / "model", config, params, source=source)
    _write_json(options.out / "gates.json", {gate.name: round(gate.value, 4) for gate in gates})
    size = (options.out / "model" / "model.safetensors").stat().st_size
    if size > MOST_BYTES:
        progress.message(f"model.safetensors has {size:,} bytes, which is more than the {MOST_BYTES:,} it may have")
        return 1
    progress.message(f"written to {options.out}: {size:,} bytes of weights")
    return 0


def read_corpus(world: World, tokenizer, *, rows: int, seed: int) -> Packed:
    """At least `rows` packed rows of documents."""
    documents, read, tokens = Corpus(world, seed).documents(), [], 0
    while tokens < rows * LENGTH:
        more = examples([next(documents) for _ in range(1000)], tokenizer)
        tokens += sum(len(example.tokens) for example in more)
        read += more
    return pack(read, LENGTH)


def pretrain(config: models.DecoderConfig, packed: Packed, options: argparse.Namespace, progress) -> dict:
    """Float32 parameters, trained with the project's own step and loop."""
    section = TrainSection(
        method="full",
        steps=options.steps,
        batch_size=options.batch,
        sequence_length=LENGTH,
        learning_rate=options.learning_rate,
        warmup_steps=min(50, options.steps),
        weight_decay=0.05,
        beta2=0.98,
    )
    mesh = make_mesh()
    axes = models.logical_axes(config)
    placed = shardings(mesh, AxisRules(), models.abstract_params(config), axes)
    key = jax.random.key(options.seed)
    params = jax.jit(lambda: models.init_params(config, key), out_shardings=placed)()
    optimizer = make_optimizer(section)
    state = init_state(params, optimizer, mesh)
    execution = models.execution_for(mesh.devices.flat[0].platform)
    compiled = compile_step(make_train_step(config, optimizer, execution), mesh, state)
    batches = Batches(packed, batch_size=section.batch_size, seed=options.seed)
    state = fit(
        compiled,
        state,
        {},
        batches.batch,
        mesh=mesh,
        steps=section.steps,
        description="pretrain",
        progress=progress,
    )
    return state.trainable


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=PACKAGED, help="folder that gets model/ and prompts/")
    parser.add_argument("--world", type=int, default=0, help="seed of the world")
    parser.add_argument("--seed", type=int, default=1, help="seed of the corpus, the weights and the order")
    parser.add_argument("--steps", type=int, default=1200)
    parser.add_argument("--batch", type=int, default=8, help="rows of 256 tokens a step")
    parser.add_argument("--learning-rate", type=float, default=3e-3)
    parser.add_argument("--force", action="store_true", help="write the weights even if a gate fails")
    parser.add_argument("--prompts-only", action="store_true", help="write the prompts and nothing else")
    return parser.parse_args()


def _write_json(file: Path, value: dict) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n", encoding="utf-8")


if __name__ == "__main__":
    # Huge pages change no bit of the weights. `configure_runtime` would: two devices sum gradients in another order.
    use_huge_pages()
    sys.exit(main())
