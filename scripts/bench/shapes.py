"""The shapes of models that the benchmarks measure, by name; any size of one can be changed on the command line."""

import argparse

# Llama's layout with tied embeddings. A head has embed / heads places.
SHAPES = {
    "micro": {"embed": 128, "layers": 4, "heads": 4, "kv-heads": 2, "mlp": 512, "vocab": 768},
    "llama-100m": {"embed": 768, "layers": 12, "heads": 12, "kv-heads": 4, "mlp": 2048, "vocab": 32000},
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds --shape, and an option for each of its sizes."""
    parser.add_argument("--shape", choices=SHAPES, default="micro", help="sizes of the model (default micro)")
    for size in SHAPES["micro"]:
        parser.add_argument(f"--{size}", type=int, metavar="N", help="instead of what the shape has")


def decoder_config(args: argparse.Namespace):
    """The DecoderConfig that the options ask for."""
    from rational_jax.models import DecoderConfig

    given = {size: getattr(args, size.replace("-", "_")) for size in SHAPES[args.shape]}
    sizes = SHAPES[args.shape] | {size: value for size, value in given.items() if value is not None}
    return DecoderConfig(
        family="llama",
        vocab_size=sizes["vocab"],
        embed_dim=sizes["embed"],
        num_layers=sizes["layers"],
        num_heads=sizes["heads"],
        num_kv_heads=sizes["kv-heads"],
        head_dim=sizes["embed"] // sizes["heads"],
        mlp_dim=sizes["mlp"],
        norm_eps=1e-5,
        rope_theta=10000.0,
        max_positions=4096,
        tie_embeddings=True,
    )
