"""Two models compared layer by layer: hidden states go through one layer of each at a time, which is then let go.

For models that are too large to be held whole. Both sides are generators of the same steps: the embedded tokens, what
every layer leaves, and the logits for one part of the vocabulary after the other. A step of `transformers` is a model
of its own classes with a single layer or none, so that masks, positions, fused experts and soft caps are theirs.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from rational_jax.errors import UserError
from rational_jax.hub.tensor_files import TensorFiles
from rational_jax.hub.weights import FileWeights, Weights
from rational_jax.models import DecoderConfig, LoraConfig, abstract_params, bind, combine
from rational_jax.models.attention import attenders
from rational_jax.models.lora import projections
from rational_jax.models.quantize import kind_of, quantize_tree
from rational_jax.models.rope import rotary_tables

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

Step = tuple[str, np.ndarray]
LOGITS = "the logits"
_VOCABULARY_PART = 16384


def largest_error(ours: Iterator[Step], theirs: Iterator[Step], tolerance: float) -> tuple[float, str]:
    """max|a - b| / max|b| over all logits, and `LOGITS`; or that of an earlier step which is above the tolerance."""
    difference = largest = 0.0
    for (where, a), (_, b) in zip(ours, theirs, strict=True):
        off, size = np.max(np.abs(a - b)), np.max(np.abs(b))
        if where != LOGITS and not off <= tolerance * size:
            return float(off / size), where
        if where == LOGITS:
            # Python's max would drop a NaN.
            difference, largest = np.maximum(difference, off), np.maximum(largest, size)
    return float(difference / largest), LOGITS


def our_steps(
    weights: Weights,
    config: DecoderConfig,
    rows: Sequence[np.ndarray],
    factors: Mapping | None = None,
    lora: LoraConfig | None = None,
    quantized: str | None = None,
) -> Iterator[Step]:
    """Our decoder on token rows, in float32: `[tokens, D]` or `[tokens, part of V]`, one row after the other.

    `factors` are the LoRA parameters of all layers; with `quantized` the weights of linear layers are, beforehand.
    """
    tokens, where = np.unique(np.concatenate(rows), return_inverse=True)
    table = np.concatenate([weights.rows(("embed", "weight"), 0, t, t + 1) for t in tokens.tolist()])
    states = table.astype(np.float32)[where] * np.float32(config.embed_scale)
    yield "the embedding", states
    # Attention is causal, so what is behind the end of a short row does not matter.
    held = np.arange(max(map(len, rows))) < np.array([[len(row)] for row in rows])
    x_BxSxD = np.zeros((*held.shape, config.embed_dim), np.float32)
    x_BxSxD[held] = states
    for layer in range(config.num_layers):
        params = _layer_params(weights, layer)
        params = params if quantized is None else quantize_tree(params, quantized)
        adapted = None
        if lora is not None and (chosen := _layer_factors(config, factors, lora, layer)):
            params, adapted = combine(params, chosen), dataclasses.replace(lora, layers=None)
        with jax.default_matmul_precision("highest"):
            x_BxSxD = np.asarray(_run_layer(_layer_config(config, layer), adapted, params, x_BxSxD))
        del params
        yield f"layer {layer}", x_BxSxD[held]
    norm = weights.rows(("norm", "weight"), 0, 0, config.embed_dim)
    head = ("embed" if config.tie_embeddings else "lm_head", "weight")
    for start in range(0, config.vocab_size, _VOCABULARY_PART):
        part = weights.rows(head, 0, start, min(start + _VOCABULARY_PART, config.vocab_size))
        with jax.default_matmul_precision("highest"):
            yield LOGITS, np.asarray(_run_head(config, norm, part, x_BxSxD[held]))


def _layer_config(config: DecoderConfig, layer: int) -> DecoderConfig:
    """A model of that layer alone."""
    kind = config.kinds[layer]
    return dataclasses.replace(
        config,
        num_layers=1,
        window=kind.window,
        window_layers=(),
        no_rope_layers=(True,) if kind.rope is None else (),
        moe=dataclasses.replace(config.moe, layers=()) if kind.sparse else None,
    )


def _layer_params(weights: Weights, layer: int) -> dict:
    """The parameters of one layer, as if it were the only one."""
    tree: dict = {}
    for path, row in weights.table.items():
        if row.layers is not None and layer in row.layers:
            size = weights.height(path) // len(row.layers)
            start = row.layers.index(layer) * size
            array = weights.block(path, start, start + size).reshape(1, *weights.shapes[path][1:])
            functools.reduce(lambda node, key: node.setdefault(key, {}), path[:-1], tree)[path[-1]] = array
    return tree


def _layer_factors(config: DecoderConfig, factors: Mapping, lora: LoraConfig, layer: int) -> dict:
    found: dict = {}
    for name, layers in projections(config).items():
        if layer in (chosen := lora.chosen(name, layers)):
            block, projection = name.split(".")
            at, node = chosen.index(layer), factors["layers"][block][projection]
            found.setdefault(block, {})[projection] = {key: leaf[at : at + 1] for key, leaf in node.items()}
    return {"layers": found} if found else {}


@functools.partial(jax.jit, static_argnums=(0, 1))
def _run_layer(config: DecoderConfig, lora: LoraConfig | None, params: dict, x_BxSxD: jax.Array) -> jax.Array:
    """What the only layer of a model makes of hidden states."""
    positions = jnp.broadcast_to(jnp.arange(x_BxSxD.shape[1]), x_BxSxD.shape[:2])
    (kind,) = config.kinds
    scores = {"scale": config.score_scale, "softcap": config.attention_softcap}
    attend = attenders("xla", jnp.ones_like(positions), {kind.window}, **scores)
    whole = combine(abstract_params(config, quantized=kind_of(params)), params)
    graphdef, state = nnx.split(bind(config, whole, lora).layers)
    layer = nnx.merge(graphdef, jax.tree.map(lambda leaf: leaf[0], state))
    return layer(x_BxSxD, kind, attend[kind.window], rotary_tables(config, positions)[kind.rope])[0]


@functools.partial(jax.jit, static_argnums=0)
def _run_head(config: DecoderConfig, norm: jax.Array, table: jax.Array, x_TxD: jax.Array) -> jax.Array:
    """Logits of the tokens whose rows of the output matrix are in `table`."""
    config = dataclasses.replace(config, vocab_size=len(table))
    head = "embed" if config.tie_embeddings else "lm_head"
    decoder = bind(config, combine(abstract_params(config), {"norm": {"weight": norm}, head: {"weight": table}}))
    return decoder.unembed(decoder.norm(x_TxD))


def their_steps(
    directory: Path, config: DecoderConfig, rows: Sequence[np.ndarray], adapter: Path | None = None
) -> Iterator[Step]:
    """As `our_steps`, by `transformers` from the files of a directory, and by `peft` with the adapter in another.

    Raises UserError where a layer lacks a tensor or has one that `transformers` does not know.
    """
    import torch
    from transformers import AutoConfig

    files, prefix = FileWeights(config, directory).files, config.tensor_prefix
    hf = AutoConfig.from_pretrained(directory, trust_remote_code=False).get_text_config()
    model = functools.partial(_their_model, directory)

    def tables(parts: Sequence[tuple[int, int]]) -> dict[str, Any]:
        """What is in no layer, with these rows of the vocabulary only."""
        found = {"model.norm.weight": _torch_rows(files, f"{prefix}model.norm.weight")}
        for name in ("model.embed_tokens.weight", "lm_head.weight")[: 1 if config.tie_embeddings else 2]:
            rows = [_torch_rows(files, prefix + name, *part) for part in parts]
            found[name] = torch.cat(rows) if len(rows) > 1 else rows[0]
        return found

    tokens, where = np.unique(np.concatenate(rows), return_inverse=True)
    lengths = [len(row) for row in rows]
    zeros = [torch.zeros(1, length, dtype=torch.long) for length in lengths]
    ids = torch.from_numpy(where.reshape(1, -1)).split(lengths, dim=1)
    bare = model(_their_config(hf, None, len(tokens)), tables([(t, t + 1) for t in tokens.tolist()]))
    states = [_their_run(bare, row)[0] for row in ids]
    yield "the embedding", torch.cat(states, dim=1)[0].numpy()
    for layer in range(config.num_layers):
        inside = f"{prefix}model.layers.{layer}."
        own = {name for name in files.names() if name.startswith(inside)}
        tensors = {name.replace(inside, "model.layers.0."): _torch_rows(files, name) for name in own}
        reduced = _their_config(hf, layer, 1, sparse=config.kinds[layer].sparse)
        one = model(reduced, tensors | tables([(0, 1)]))
        del tensors
        if adapter is not None:
            one = _with_adapter(one, adapter, layer)
        states = [_their_run(one, row, state)[0] for row, state in zip(zeros, states, strict=True)]
        del one
        yield f"layer {layer}", torch.cat(states, dim=1)[0].numpy()
    for start in range(0, config.vocab_size, _VOCABULARY_PART):
        stop = min(start + _VOCABULARY_PART, config.vocab_size)
        bare = model(_their_config(hf, None, stop - start), tables([(start, stop)]))
        logits = [_their_run(bare, row, state)[1] for row, state in zip(zeros, states, strict=True)]
        yield LOGITS, torch.cat(logits, dim=1)[0].numpy()


def check_report(directory: Path, report: Mapping[str, Any]) -> None:
    """Raise UserError where `transformers` reports a tensor that it misses, does not know or cannot use."""
    for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if names := sorted(map(str, report.get(kind) or ())):
            shown = ", ".join(names[:3])
            raise UserError(f"export check failed in {directory}: transformers reports {kind} {shown} ({len(names)})")


def _their_config(hf: PreTrainedConfig, layer: int | None, vocabulary: int, sparse: bool = False) -> PreTrainedConfig:
    """A model with that layer alone, or none, and so many tokens."""
    reduced = copy.deepcopy(hf)
    reduced.vocab_size, reduced.pad_token_id = vocabulary, None
    reduced.num_hidden_layers = 0 if layer is None else 1
    for setting in ("layer_types", "no_rope_layers"):
        if (each := getattr(reduced, setting, None)) is not None:
            setattr(reduced, setting, [] if layer is None else [each[layer]])
    if hasattr(reduced, "mlp_only_layers"):
        reduced.mlp_only_layers, reduced.decoder_sparse_step = [] if sparse else [0], 1
    return reduced


def _their_model(directory: Path, hf: PreTrainedConfig, tensors: dict[str, Any]) -> PreTrainedModel:
    import torch
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        kind = type(AutoModelForCausalLM.from_config(hf))
    # Eager attention is the one that applies every family's soft caps.
    model, report = kind.from_pretrained(
        None,
        config=hf,
        state_dict=tensors,
        dtype=torch.float32,
        attn_implementation="eager",
        output_loading_info=True,
    )
    check_report(directory, report)
    return model.eval()


def _their_run(model: Any, ids: Any, states: Any = None) -> tuple[Any, Any]:
    """Hidden states `[1, S, D]` before the last norm, and logits. `states` are put in front of the layer, or norm."""
    import torch

    inner, before = model.get_decoder(), []

    def put(_: Any, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
        return (states, *args[1:]), kwargs

    def kept(_: Any, args: tuple) -> None:
        before.append(args[0])

    hooks = [inner.norm.register_forward_pre_hook(kept)]
    if states is not None:
        place = inner.layers[0] if len(inner.layers) else inner.norm
        hooks.append(place.register_forward_pre_hook(put, with_kwargs=True, prepend=True))
    with torch.no_grad():
        logits = model(input_ids=ids, use_cache=False).logits
    for hook in hooks:
        hook.remove()
    return before[0], logits.float()


def _torch_rows(files: TensorFiles, name: str, start: int = 0, stop: int | None = None) -> Any:
    """Rows of a tensor of a file as a torch tensor in its stored dtype."""
    import torch

    rows = files.rows(name, start, files.stored(name).shape[0] if stop is None else stop)
    if rows.dtype == jnp.bfloat16:
        return torch.from_numpy(rows.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(rows)


def _with_adapter(model: PreTrainedModel, adapter: Path, layer: int) -> Any:
    """A model of one layer with that layer's part of an adapter, if it has one."""
    from peft import PeftModel
    from safetensors import safe_open
    from safetensors.torch import save_file

    def alone(name: str) -> str | None:
        """What is called so in the whole model, by its name in this one."""
        name = name.replace("model.language_model.layers.", "model.layers.")
        return name.replace(f"layers.{layer}.", "layers.0.") if f"layers.{layer}." in name else None

    settings = json.loads((adapter / "adapter_config.json").read_text("utf-8"))
    with safe_open(adapter / "adapter_model.safetensors", framework="pt") as file:
        own = {renamed: file.get_tensor(name) for name in file.keys() if (renamed := alone(name)) is not None}
    if not own:
        return model
    if parameters := settings.get("target_parameters"):
        everywhere = [name for name in parameters if ".layers." not in f".{name}"]
        settings["target_parameters"] = [*everywhere, *filter(None, map(alone, parameters))]
    settings |= {"layers_to_transform": None, "exclude_modules": None}
    with tempfile.TemporaryDirectory() as directory:
        save_file(own, Path(directory) / "adapter_model.safetensors")
        (Path(directory) / "adapter_config.json").write_text(json.dumps(settings), "utf-8")
        return PeftModel.from_pretrained(model, directory).eval()
