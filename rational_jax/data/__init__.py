"""Prompts and rationales as records, on disk and packed for training."""

from rational_jax.data.batches import Batches
from rational_jax.data.packing import Packed, PackingReport, balancing_weight, pack
from rational_jax.data.rationale_dataset import read_hf, read_tfds, write_hf, write_tfds
from rational_jax.data.schema import LABELS, LAYOUTS, Prompt, Rationale
from rational_jax.data.sources import read_prompts, read_rationales

__all__ = [
    "LABELS",
    "LAYOUTS",
    "Batches",
    "Packed",
    "PackingReport",
    "Prompt",
    "Rationale",
    "balancing_weight",
    "pack",
    "read_hf",
    "read_prompts",
    "read_rationales",
    "read_tfds",
    "write_hf",
    "write_tfds",
]
