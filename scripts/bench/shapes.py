"""The shapes of models that the benchmarks measure, by name; any size of one can be changed on the command line."""

import argparse

_SMALL = {"rope_theta": 1e4, "max_positions": 4096, "tie_embeddings": True}
_LLAMA_3 = {"vocab_size": 128256, "rope_theta": 5e5, "max_positions": 131072, "tie_embeddings": False}
# Llama's layout, as fields of DecoderConfig. A head has embed_dim / num_heads places.
SHAPES = {
    "micro": _SMALL
    | {"embed_dim": 128, "num_layers": 4, "num_heads": 4, "num_kv_heads": 2, "mlp_dim": 512, "vocab_size": 768},
    "llama-100m": _SMALL
    | {"embed_dim": 768, "num_layers": 12, "num_heads": 12, "num_kv_heads": 4, "mlp_dim": 2048, "vocab_size": 32000},
    "llama-3.1-8b": _LLAMA_3
    | {"embed_dim": 4096, "num_layers": 32, "num_heads": 32, "num_kv_heads": 8, "mlp_dim": 14336},
}
_OPTIONS = {
    "embed": "embed_dim",
    "layers": "num_layers",
    "heads": "num_heads",
    "kv-heads": "num_kv_heads",
    "mlp": "mlp_dim",
    "vocab": "vocab_size",
}


def add_arguments(parser: argparse.ArgumentParser, default: str = "micro") -> None:
    """Adds --shape, and an option for each of its sizes."""
    parser.add_argument("--shape", choices=SHAPES, default=default, help=f"sizes of the model (default {default})")
    for option, size in _OPTIONS.items():
        parser.add_argument(f"--{option}", dest=size, type=int, metavar="N", help="instead of what the shape has")


def decoder_config(args: argparse.Namespace):
    """The DecoderConfig that the options ask for."""
    from rational_jax.models import DecoderConfig

    given = {size: value for size in _OPTIONS.values() if (value := getattr(args, size)) is not None}
    fields = SHAPES[args.shape] | given
    return DecoderConfig(family="llama", norm_eps=1e-5, head_dim=fields["embed_dim"] // fields["num_heads"], **fields)
