"""Compares a model here with the same model in transformers, by its logits on random tokens, in float32.

Any directory of a supported family, or a Hub id; with --adapter, a PEFT adapter on it, compared with peft. It needs no
tokenizer and no accelerator. The two sides run one after the other with the weights as they are stored, one layer at a
time in float32, so the memory is about the size of the files on disk.

    python scripts/compare_logits.py ~/models/Llama-3.2-1B
    python scripts/compare_logits.py ~/models/gemma-3-1b-it --tokens 1500 --packed
    python scripts/compare_logits.py Qwen/Qwen3-0.6B --adapter runs/demo/export/rational/adapter --json

Exit code 0 where max|a - b| / max|b| is at most the tolerance, 1 where it is more, 2 where something has to be mended.
rational_jax.hub.verify derives the tolerance.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import gc
import importlib.util
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rational_jax import hub, models
from rational_jax.errors import UserError
from rational_jax.models import DecoderConfig, LoraConfig


def options(words: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", metavar="MODEL_DIR", help="a directory with config.json and safetensors, or a Hub id")
    parser.add_argument("--tokens", type=int, help="tokens compared (default 600, or the model's context)")
    parser.add_argument(
        "--packed", action="store_true", help="three documents in one row of ours, each alone in theirs"
    )
    parser.add_argument("--adapter", metavar="DIR", help="a PEFT LoRA adapter to put on the model")
    parser.add_argument("--tolerance", type=float, default=hub.TOLERANCE, help=f"default {hub.TOLERANCE:g}")
    parser.add_argument("--seed", type=int, default=0, help="of the tokens (default 0)")
    parser.add_argument("--json", action="store_true", help="print the figures as one JSON object")
    return parser.parse_args(words)


def main(words: Sequence[str] | None = None) -> int:
    args = options(words)
    try:
        figures = compare(args)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(json.dumps(figures) if args.json else described(figures))
    return 0 if figures["agree"] else 1


def compare(args: argparse.Namespace) -> dict[str, Any]:
    """The figures of one comparison; UserError for what the user can mend."""
    needed = ["torch", "transformers", *(["peft"] if args.adapter else [])]
    if absent := [name for name in needed if importlib.util.find_spec(name) is None]:
        raise UserError(f"the comparison needs {' and '.join(absent)}: pip install 'rational-jax[torch]'")
    base = hub.resolve(args.model)
    config = hub.load_config(base)
    longest = config.max_positions
    tokens = min(600, longest) if args.tokens is None else args.tokens
    if not 6 <= tokens <= longest:
        raise UserError(f"--tokens {tokens}: this model takes 6 to {longest}")
    documents = random_documents(config, tokens, args.seed, parts=3 if args.packed else 1)
    # Where the rotary frequencies switch with length, it is the length of each sequence that switches them in theirs.
    config = dataclasses.replace(config, context=max(map(len, documents)))
    scaling = config.rope_scaling
    if scaling is not None and scaling.kind == "longrope":
        if len({len(document) > scaling.original_max_positions for document in documents}) > 1:
            raise UserError(
                f"--packed --tokens {tokens}: the rotary frequencies of this model switch at "
                f"{scaling.original_max_positions} tokens, and of three documents all must be on one side of it"
            )
    adapter = None if args.adapter is None else hub.load_adapter(args.adapter, config)
    started = time.perf_counter()
    theirs = their_logits(base, args.adapter, documents)
    between = time.perf_counter()
    ours = our_logits(base, config, adapter, documents)
    finished = time.perf_counter()
    largest = max(float(np.abs(b).max()) for b in theirs)
    errors = [float(np.abs(a - b).max()) / largest for a, b in zip(ours, theirs, strict=True)]
    same = sum(int((a.argmax(-1) == b.argmax(-1)).sum()) for a, b in zip(ours, theirs, strict=True))
    return {
        "model": str(args.model),
        "family": config.family,
        "adapter": args.adapter,
        "with": "peft" if args.adapter else "transformers",
        "tokens": tokens,
        "documents": [len(document) for document in documents],
        "error": max(errors),  # NaN stays NaN, which no tolerance allows
        "errors": errors,
        "tolerance": args.tolerance,
        "agree": all(error <= args.tolerance for error in errors),
        "same_best_token": same / tokens,
        "seconds": {"theirs": round(between - started, 1), "ours": round(finished - between, 1)},
    }


def described(figures: dict[str, Any]) -> str:
    """The figures in words."""
    verdict = "agrees with" if figures["agree"] else "DIFFERS from"
    what = f"{figures['model']} ({figures['family']})" + (f" with {figures['adapter']}" if figures["adapter"] else "")
    packed = f", packed as {', '.join(map(str, figures['documents']))}" if figures["documents"][1:] else ""
    return (
        f"{what}: {verdict} {figures['with']}\n"
        f"largest relative error of a logit: {figures['error']:.2e} (allowed {figures['tolerance']:g})\n"
        f"{figures['tokens']} random tokens{packed}; the best token is the same for {figures['same_best_token']:.1%}; "
        f"{figures['seconds']['theirs']} s theirs, {figures['seconds']['ours']} s ours"
    )


def random_documents(config: DecoderConfig, tokens: int, seed: int, *, parts: int) -> list[np.ndarray]:
    """So many documents of unequal length, int32, which have `tokens` tokens in all."""
    random = np.random.default_rng(seed).integers(0, config.vocab_size, tokens, dtype=np.int32)
    shares = np.arange(parts, 0, -1)
    return np.split(random, np.cumsum(shares)[:-1] * tokens // shares.sum())


def our_logits(
    base: Path, config: DecoderConfig, adapter: hub.Adapter | None, documents: list[np.ndarray]
) -> list[np.ndarray]:
    """Float32 `[tokens, V]` for each document, all from one packed row."""
    params = hub.load_params(base, config)
    lora = None
    if adapter is not None:
        params, lora = models.combine(params, adapter.params), adapter.lora
    positions = np.concatenate([np.arange(len(document)) for document in documents])
    segments = np.concatenate([np.full(len(document), number) for number, document in enumerate(documents, 1)])
    row = (np.concatenate(documents)[None], positions[None], segments[None])
    # Accelerators multiply float32 in fewer bits unless told otherwise.
    with jax.default_matmul_precision("highest"):
        logits = np.asarray(_logits(config, lora, params, *row)[0])
    return np.split(logits, np.cumsum([len(document) for document in documents])[:-1])


@functools.partial(jax.jit, static_argnums=(0, 1))
def _logits(config: DecoderConfig, lora: LoraConfig | None, params: dict, tokens, positions, segments) -> jax.Array:
    decoder = models.bind(config, params, lora)
    # Each layer's weights are cast when it is run, inside the scan.
    hidden, _ = decoder(tokens, positions, segments, execution=models.Execution(dtype=jnp.float32))
    return decoder.unembed(hidden)


def their_logits(base: Path, adapter: str | None, documents: list[np.ndarray]) -> list[np.ndarray]:
    """Float32 `[tokens, V]` for each document, run alone."""
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    # Eager attention is the one that applies every family's soft caps.
    model = AutoModelForCausalLM.from_pretrained(
        base, dtype="auto", attn_implementation="eager", trust_remote_code=False, local_files_only=True
    )
    if adapter is not None:
        from peft import PeftModel

        model = PeftModel.from_pretrained(model, adapter)
    compute_in_float32(model)
    model.eval()
    with torch.no_grad():
        found = [model(input_ids=torch.from_numpy(ids[None].astype(np.int64))).logits[0].numpy() for ids in documents]
    del model
    gc.collect()
    return found


def compute_in_float32(model: Any) -> None:
    """A torch model in float32 without ever holding more of it in float32 than one layer, and what is no layer."""
    import torch

    in_layers: set[int] = set()

    def widen(module, _) -> None:
        for parameter in module.parameters():
            parameter.data = parameter.data.float()

    for module in list(model.modules()):
        if isinstance(module, torch.nn.ModuleList):
            for layer in module:
                stored = {id(parameter): parameter.dtype for parameter in layer.parameters()}
                in_layers |= stored.keys()

                def narrow(module, _, __, stored=stored) -> None:
                    for parameter in module.parameters():
                        parameter.data = parameter.data.to(stored[id(parameter)])

                layer.register_forward_pre_hook(widen)
                layer.register_forward_hook(narrow)
    for parameter in model.parameters():
        if id(parameter) not in in_layers:
            parameter.data = parameter.data.float()
    for module in model.modules():
        for name, buffer in module.named_buffers(recurse=False):
            if buffer.is_floating_point() and buffer.dtype != torch.float32:
                # Rounded on loading. Gemma's factor of the embeddings is kept as a Python number too.
                if (exact := getattr(module, f"scalar_{name}", None)) is None:
                    raise UserError(f"transformers has {name} of {type(module).__name__} in {buffer.dtype} only")
                setattr(module, name, torch.tensor(exact, dtype=torch.float32))


if __name__ == "__main__":
    sys.exit(main())
