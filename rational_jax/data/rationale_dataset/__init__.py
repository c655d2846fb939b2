"""Rationales on disk, the same data twice: as a TFDS dataset and as a Hugging Face `datasets` directory.

Both are written atomically and deterministically: the same rationales give the same bytes. Reading checks every file
against the checksums written beside it.
"""

from rational_jax.data.rationale_dataset.checksums import FILE as CHECKSUMS
from rational_jax.data.rationale_dataset.checksums import content_sha256
from rational_jax.data.rationale_dataset.hf import read_hf, write_hf
from rational_jax.data.rationale_dataset.tfds import NAME as TFDS
from rational_jax.data.rationale_dataset.tfds import is_tfds, read_tfds, write_tfds

__all__ = ["CHECKSUMS", "TFDS", "content_sha256", "is_tfds", "read_hf", "read_tfds", "write_hf", "write_tfds"]
