"""From the name of a model to a local Hugging Face directory, what it consists of, and its tokenizer."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rational_jax.errors import UserError
from rational_jax.storage import remembered_sha256
from rational_jax.stores import broken_off, first_line, is_remote, local_copy, trouble

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

MICRO = "micro"
"""The name of the model that comes with the package."""
_MICRO_DIRECTORY = Path(__file__).parents[1] / "micro" / "model"

# What a model directory is read for; everything else there (other frameworks' weights, code, pickles) is left alone.
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "chat_template.jinja",
    "chat_template.json",
)
# Of multimodal models, whose other towers an export carries along.
PROCESSOR_FILES = ("preprocessor_config.json", "processor_config.json")
LICENCE_FILES = ("LICENSE*", "NOTICE*", "USE_POLICY*")
_DOWNLOADED = ("*.safetensors", "*.safetensors.index.json", "config.json", "generation_config.json")
_READ = (*_DOWNLOADED, *TOKENIZER_FILES, *PROCESSOR_FILES, *LICENCE_FILES)

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?")
_SHA256 = re.compile(r"[0-9a-f]{64}")


def resolve(name: str, revision: str | None = None, *, weights: bool = True) -> Path:
    """The local directory of a model: "micro" (in this package), a directory, or what is downloaded: a Hub id, gs://...

    Only safetensors, configuration, tokenizer and licence files are fetched, never a pickle. `revision`
    is a branch, tag or commit of a Hub repository. Without `weights` only its config.json is fetched, which
    `load_config` needs. Raises UserError where there is no such model, Unreachable where the Hub cannot be reached or
    the connection breaks.
    """
    if is_remote(name):
        if revision is not None:
            raise UserError(f"model {name!r} is an address, which has no revision: remove revision={revision!r}")
        return local_copy(f"{name.rstrip('/')}/", _READ if weights else ["config.json"])
    directory = _MICRO_DIRECTORY if name == MICRO else Path(name)
    if directory.is_dir():
        if revision is not None:
            raise UserError(f"model {name!r} is a local directory, which has no revision: remove revision={revision!r}")
        return directory
    if name == MICRO:
        raise UserError(f"the embedded model is missing from this installation ({directory})")
    if not _HUB_ID.fullmatch(name):
        raise UserError(f"model {name!r}: there is no such directory, and a Hub id looks like 'organisation/model'")
    return _download(name, revision, weights)


def _download(name: str, revision: str | None, weights: bool) -> Path:
    # Imported here because it costs half a second that no local model needs.
    from huggingface_hub import errors, snapshot_download

    wanted = list(_READ) if weights else ["config.json"]
    at = f" at revision {revision!r}" if revision else ""
    try:
        found = Path(snapshot_download(name, revision=revision, allow_patterns=wanted, ignore_patterns=["*/*"]))
    except errors.GatedRepoError as error:
        raise UserError(f"model {name!r} is gated: accept its terms on the Hub and run `hf auth login`") from error
    except errors.RevisionNotFoundError as error:
        raise UserError(f"model {name!r} has no revision {revision!r} on the Hub") from error
    except errors.RepositoryNotFoundError as error:
        raise UserError(f"model {name!r} is neither a directory here nor a (public) model on the Hub") from error
    except (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled) as error:
        said = f"model {name!r}{at} is not in the local cache and the Hub cannot be reached"
        raise trouble(said, error.__cause__ or error) from error
    except errors.HFValidationError as error:
        raise UserError(f"model {name!r}: no directory of that name, and not a Hub id ({error})") from error
    except errors.HfHubHTTPError as error:
        raise trouble(f"model {name!r}{at} could not be downloaded: {first_line(error)}", error) from error
    except (errors.HTTPError, OSError, RuntimeError) as error:
        raise broken_off(f"model {name!r}{at}: the download", error) from error
    if weights and not any(found.glob("*.safetensors")):
        raise UserError(
            f"model {name!r}{at} has no safetensors weights on the Hub; pickle files can run code and are refused"
        )
    return found


def identity(path: str | Path) -> dict[str, Any]:
    """What a model is, for manifests: its name, the commit it was downloaded at (else None), and every file's SHA-256.

    The same files give the same answer wherever they lie, apart from the name of a local directory.
    """
    path = Path(path)
    names = {*TOKENIZER_FILES, "config.json", "generation_config.json", "model.safetensors.index.json"}
    files = sorted(f for f in path.iterdir() if f.is_file() and (f.name in names or f.suffix == ".safetensors"))
    name, revision = path.resolve().name, None
    # The Hub's cache is models--organisation--name/snapshots/<commit>/.
    if path.parent.name == "snapshots" and path.parent.parent.name.startswith("models--"):
        name, revision = path.parent.parent.name.removeprefix("models--").replace("--", "/"), path.name
    elif path.resolve() == _MICRO_DIRECTORY.resolve():
        name = MICRO
    return {"name": name, "revision": revision, "files": {file.name: _digest(file) for file in files}}


def _digest(file: Path) -> str:
    # The Hub's cache names large files by their SHA-256, so gigabytes need not be read again.
    blob = file.resolve().name
    return blob if file.is_symlink() and _SHA256.fullmatch(blob) else remembered_sha256(file)


def has_tokenizer(path: str | Path) -> bool:
    """Whether a model directory has a tokenizer."""
    return any((Path(path) / name).is_file() for name in ("tokenizer.json", "tokenizer.model", "tokenizer_config.json"))


def load_tokenizer(path: str | Path) -> PreTrainedTokenizerBase:
    """The tokenizer (with its chat template) of a local model directory. Never runs code from the directory."""
    from transformers import AutoTokenizer

    path = Path(path)
    if not has_tokenizer(path):
        raise UserError(f"{path} has no tokenizer (tokenizer.json, tokenizer_config.json)")
    try:
        return AutoTokenizer.from_pretrained(path, trust_remote_code=False)
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise UserError(f"{path}: the tokenizer cannot be loaded ({first_line(error)})") from error
