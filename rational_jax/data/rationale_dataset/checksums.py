"""Checksums beside a dataset's files, so that a missing or cut shard is found before it is trained on."""

import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path

from rational_jax.data.schema import Rationale
from rational_jax.errors import UserError
from rational_jax.storage import atomic_write_json, sha256_file, sha256_tree

FILE = "checksums.json"
"""The file beside a data set with the SHA-256 of its files and its content."""


def shard_ranges(examples: int, most: int) -> list[range]:
    """Which examples are in which shard: `most` in each but the last, and one shard where there is none."""
    return [range(first, min(first + most, examples)) for first in range(0, examples, most)] or [range(0)]


def content_sha256(rationales: Iterable[Rationale]) -> str:
    """Digest of the records themselves in their order, whatever format they are written in."""
    digest = hashlib.sha256()
    for rationale in rationales:
        row = json.dumps(rationale.to_json(), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        digest.update(row.encode("utf-8") + b"\n")
    return digest.hexdigest()


def write_checksums(directory: Path, rationales: Sequence[Rationale]) -> None:
    """Lists all files in `directory` with their SHA-256, and the content's."""
    files = sha256_tree(directory)
    content = {"examples": len(rationales), "content": content_sha256(rationales), "files": files}
    atomic_write_json(directory / FILE, content)


def verify_checksums(directory: Path) -> dict:
    """The content of the checksum file. UserError naming the first file that is missing or not what was written."""
    listing = directory / FILE
    if not listing.is_file():
        raise UserError(f"{directory}: no rationale dataset here ({FILE} is missing); run `rational curate` first")
    try:
        checksums = json.loads(listing.read_text("utf-8"))
        files = dict(checksums["files"])
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{listing}: damaged; delete the dataset's folder and run `rational curate` again") from error
    for name, expected in files.items():
        path = directory / name
        if not path.is_file():
            raise UserError(f"{path}: missing; delete the dataset's folder and run `rational curate` again")
        if sha256_file(path) != expected:
            raise UserError(
                f"{path}: cut short or changed since it was written; delete the dataset's folder and run "
                "`rational curate` again"
            )
    return checksums
