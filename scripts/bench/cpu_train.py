"""A LoRA training step on CPU against the same step in torch (transformers + peft), turn by turn in one process.

Both take the same packed batch: shapes, segment mask, positions, loss positions, AdamW, clipping; random weights.

    python scripts/bench/cpu_train.py
    python scripts/bench/cpu_train.py --rows 4 --length 512 --shape llama-100m --repeats 5
"""

import argparse
import json
import os
import statistics
import time

import shapes

from rational_jax.cli.process import use_huge_pages


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=16, help="packed rows a step (default 16)")
    parser.add_argument("--length", type=int, default=256, help="tokens a row (default 256)")
    parser.add_argument("--example", type=int, default=85, help="tokens of each packed example (default 85)")
    shapes.add_arguments(parser)
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=30, help="counted steps of each, after three that are not")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    return parser.parse_args()


def make_batch(args, config):
    """Random tokens in examples of equal length; the loss counts on the last 60% of each example."""
    import numpy as np

    shape = (args.rows, args.length)
    place = np.broadcast_to(np.arange(args.length, dtype=np.int32), shape)
    positions = place % args.example
    weights = (positions >= int(0.4 * args.example)).astype(np.float32)
    return {
        "tokens": np.random.default_rng(0).integers(0, config.vocab_size, shape, dtype=np.int32),
        "segments": place // args.example + 1,
        "positions": positions,
        "weights": weights,
        "kinds": (2 * weights).astype(np.uint8),
    }


def ours(args, config, batch):
    """A function that takes one step and returns the loss."""
    import jax

    from rational_jax import models, parallel, train
    from rational_jax.config import TrainSection

    lora = models.LoraConfig(rank=args.rank, alpha=2 * args.rank)
    mesh = parallel.make_mesh()
    axes, rules = models.logical_axes(config, lora), parallel.AxisRules()

    def place(tree):
        return jax.device_put(tree, parallel.shardings(mesh, rules, tree, axes))

    frozen = place(models.init_params(config, jax.random.key(0)))
    trainable = place(models.init_lora(config, lora, jax.random.key(1)))
    section = TrainSection(learning_rate=1e-3, schedule="constant", warmup_steps=0)
    optimizer = train.make_optimizer(section)
    state = train.init_state(trainable, optimizer, mesh)
    compiled = train.compile_step(
        train.make_train_step(config, optimizer, models.execution_for("cpu"), lora), mesh, state
    )
    batch = jax.device_put(batch, compiled.batch_sharding)

    def step() -> float:
        nonlocal state
        with jax.set_mesh(mesh):  # as the training loop does
            state, metrics = compiled.step(state, frozen, batch)
        return float(metrics["loss"])

    return step


def theirs(args, config, batch):
    """The same in torch: sdpa attention under the block-causal mask, the fastest that transformers has on CPU."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import LlamaConfig, LlamaForCausalLM

    from rational_jax import hub

    torch.manual_seed(0)
    torch.set_num_threads(os.cpu_count())
    model = LlamaForCausalLM(LlamaConfig(**hub.write_config(config), attn_implementation="sdpa"))
    targets = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    model = get_peft_model(model, LoraConfig(r=args.rank, lora_alpha=2 * args.rank, target_modules=targets))
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-3)
    tokens, segments, positions = (torch.tensor(batch[name]).long() for name in ("tokens", "segments", "positions"))
    same = segments[:, :, None] == segments[:, None, :]
    mask = (same & torch.ones(args.length, args.length, dtype=torch.bool).tril())[:, None]
    labels = torch.where(torch.tensor(batch["weights"]) > 0, tokens, -100)

    def step() -> float:
        optimizer.zero_grad()
        loss = model(input_ids=tokens, attention_mask=mask, position_ids=positions, labels=labels).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        return float(loss.detach())

    return step


def main() -> None:
    use_huge_pages()  # what `rational` does too; torch gets the same
    args = arguments()
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    from rational_jax.parallel.setup import configure_runtime

    configure_runtime()
    config = shapes.decoder_config(args)
    batch = make_batch(args, config)
    steps = {"rational_jax": ours(args, config, batch), "torch": theirs(args, config, batch)}
    wall, cpu = ({name: [] for name in steps} for _ in range(2))
    for repeat in range(3 + args.repeats):
        for name, step in steps.items():
            began = time.perf_counter(), time.process_time()
            step()
            if repeat >= 3:
                wall[name].append(time.perf_counter() - began[0])
                cpu[name].append(time.process_time() - began[1])
    figures = {
        name: {
            "median_ms": 1000 * statistics.median(wall[name]),
            "fastest_ms": 1000 * min(wall[name]),
            "cpu_ms": 1000 * statistics.median(cpu[name]),
            "tokens_per_second": args.rows * args.length / statistics.median(wall[name]),
        }
        for name in steps
    }
    pairs = sorted(b / a for a, b in zip(wall["rational_jax"], wall["torch"], strict=True))
    ratios = {key: figures["torch"][key] / figures["rational_jax"][key] for key in ("fastest_ms", "cpu_ms")}
    ratios["pairs_median"] = statistics.median(pairs)
    ratios["pairs_quartiles"] = [pairs[len(pairs) * quarter // 4] for quarter in (1, 3)]
    if args.json:
        print(json.dumps(figures | {"torch / rational_jax": ratios}, indent=1))
        return
    print(f"{'one step':14s} {'median':>10s} {'fastest':>10s} {'CPU time':>10s}")
    for name, row in figures.items():
        times = " ".join(f"{row[key]:7.0f} ms" for key in ("median_ms", "fastest_ms", "cpu_ms"))
        print(f"{name:14s} {times} {row['tokens_per_second']:10,.0f} tokens/s")
    low, high = ratios["pairs_quartiles"]
    print(
        f"torch / rational_jax: {ratios['pairs_median']:.2f} in the median of pairs ({low:.2f} to {high:.2f}), "
        f"{ratios['fastest_ms']:.2f} of the fastest, {ratios['cpu_ms']:.2f} of CPU time"
    )


if __name__ == "__main__":
    main()
