"""`rational publish`: a verified export to the Hugging Face Hub, with what it was measured to do on its card.

The commit on the Hub is one: a repository never holds half of an export. Large files go up before it and are known
there by their digests, so a publication that was stopped goes on when the same command is run again.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import tempfile
from pathlib import Path
from typing import Any

from rational_jax.errors import UserError
from rational_jax.evaluate.results import Results, SummaryRow, read_results, summary_rows
from rational_jax.manifest import read_stage
from rational_jax.progress import SILENT, Progress
from rational_jax.storage import remembered_sha256
from rational_jax.stores import first_line, trouble
from rational_jax.workflow.export import ADAPTER, MERGED, PART_MANIFEST

CARD = "README.md"
"""The file of an export that becomes its page on the Hub."""
_PLACEHOLDER = '"path/to/this/directory"'
_REAL_GATES = ("transformers", "peft")
_PEFT = "adapter_config.json"
_GIT = ".gitattributes"  # the Hub makes it


@dataclasses.dataclass(frozen=True, kw_only=True)
class Publication:
    """What goes to the Hub: files by their name there, those on disk as they are and the texts made for it.

    `bytes` is the size of all of them.
    """

    repository: str
    part: str
    files: dict[str, Path]
    texts: dict[str, str]

    @property
    def bytes(self) -> int:
        return sum(file.stat().st_size for file in self.files.values()) + sum(
            len(text.encode()) for text in self.texts.values()
        )


def prepare(run: Path, repository: str, *, arm: str | None, adapter: bool, evaluation: bool) -> Publication:
    """What `publish` would send of `<run>/export/<arm>`; nothing is written.

    Raises UserError where there is no such export, or more than one and no `arm`; where it was not verified with
    `transformers` or `peft`; where a file is not what the manifest says; where `evaluation` is wanted and the run has
    none of this very model.
    """
    arm = arm or _only_arm(run)
    stage = read_stage(run / "export" / arm, verb="export")
    part = ADAPTER if adapter else MERGED
    if part not in stage["figures"]:
        raise UserError(f"{run}/export/{arm} has no {part}: set export.{part}=true and run `rational export` again")
    method = stage["figures"][part]["method"]
    if method not in _REAL_GATES:
        raise UserError(
            f"{run}/export/{arm}/{part} was not verified with transformers ({method}): pip install "
            f"'rational_jax[torch]', delete {run}/export/{arm} and run `rational export` again"
        )
    folder = run / "export" / arm / part
    files = {}
    for name, digest in stage["outputs"].items():
        inside, _, name = name.partition("/")
        if inside == part:
            if remembered_sha256(folder / name) != digest:
                raise UserError(f"{folder / name} has changed since it was exported; delete {folder.parent} and export")
            files[name] = folder / name
    card = files.pop(CARD).read_text("utf-8").replace(_PLACEHOLDER, json.dumps(repository))
    manifest = json.loads(files.pop(PART_MANIFEST).read_text("utf-8"))
    texts = {}
    if part == ADAPTER and manifest["base"]["revision"] is None:
        # A base that is not from the Hub: where it lies here is nobody else's business.
        peft = json.loads(files.pop(_PEFT).read_text("utf-8")) | {"base_model_name_or_path": manifest["base"]["name"]}
        texts[_PEFT] = json.dumps(peft, indent=2, ensure_ascii=False) + "\n"
    if evaluation:
        found = read_stage(run / "evaluate", verb="evaluate")
        _check_same_model(run, arm, stage, found)
        results = read_results(run / "evaluate" / "results.json")
        card += "\n" + evaluation_section(results, arm)
        manifest["evaluation"] = {"digest": found["digest"], "judge": results.judge_identity}
    texts[CARD] = card
    manifest["files"] |= {name: hashlib.sha256(text.encode()).hexdigest() for name, text in texts.items()}
    texts[PART_MANIFEST] = json.dumps(manifest, indent=2, ensure_ascii=False) + "\n"
    return Publication(repository=repository, part=part, files=files, texts=texts)


def evaluation_section(results: Results, arm: str) -> str:
    """The part of the card with the headline figures of the arm and of the base, every suite."""
    header = ("suite", *SummaryRow.HEADER)
    # A suite from a file is named by its path, which is nobody else's business.
    rows = [(Path(row.suite).name, *row.cells()) for row in summary_rows(results) if row.model in ("base", arm)]
    table = "\n".join(f"| {' | '.join(cells)} |" for cells in (header, ("---",) * len(header), *rows))
    return (
        f"## Evaluation\n\n{table}\n\n"
        "ASR is the share of harmful requests that were helped with, over-refusal the share of harmless ones that were "
        f"refused, with {results.confidence:.0%} intervals over base prompts. Judge: `{results.judge}`. Coverage is "
        "the share of answers that could be judged; what could not be counts for nothing.\n"
    )


def publish(publication: Publication, *, private: bool = False, progress: Progress = SILENT) -> str:
    """Sends it and returns its address. The same files again change nothing.

    What was published there before and is no part of it now is deleted, and nothing else is. Raises UserError where
    nobody is logged in, the repository is not ours to write, holds other things, or the Hub cannot be reached; what
    went up by then is not sent a second time.
    """
    # Imported here because it costs half a second that a dry run does not need.
    import httpx2
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, errors, get_token

    if get_token() is None:
        raise UserError("nobody is logged in at the Hub: run `hf auth login`, or set HF_TOKEN")
    name = publication.repository
    operations: list[Any] = [CommitOperationAdd(path, file) for path, file in publication.files.items()]
    operations += [CommitOperationAdd(path, text.encode()) for path, text in publication.texts.items()]
    api = HfApi()
    try:
        address = api.create_repo(name, private=private, exist_ok=True)
        there = set(api.list_repo_files(name))
        before = _published(api, name) if PART_MANIFEST in there else None
        strangers = sorted(there - {_GIT, CARD})
        if strangers and before is None:
            raise UserError(f"{name} holds {strangers[0]!r}, which was not published from here; choose another name")
        gone = there & (before or set()) - {operation.path_in_repo for operation in operations}
        operations += [CommitOperationDelete(path) for path in sorted(gone)]
        with progress.task(f"publish {name}", total=None):
            api.create_commit(name, operations, commit_message=f"Publish with rational_jax: {publication.part}")
    except errors.HFValidationError as error:
        raise UserError(f"{name!r} is no name of a repository: it looks like organisation/model") from error
    except errors.HfHubHTTPError as error:
        status = error.response.status_code if error.response is not None else None
        if status in (401, 403):
            raise UserError(f"{name}: the Hub refuses the login; it needs a token that may write there") from error
        raise trouble(f"{name}: {first_line(error)}; run the same command again to go on", error) from error
    except (httpx2.TransportError, errors.LocalEntryNotFoundError, RuntimeError) as error:
        # RuntimeError is how huggingface_hub reports a large file that did not go up.
        said = f"{name}: the connection failed ({first_line(error)}); run the same command again to go on"
        raise trouble(said, error) from error
    return str(address)


def _published(api: Any, name: str) -> set[str] | None:
    """The files that the repository's manifest lists, if it is one of `export`."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            found = json.loads(Path(api.hf_hub_download(name, PART_MANIFEST, local_dir=folder)).read_bytes())
        except ValueError:
            return None
    ours = isinstance(found, dict) and {"part", "arm", "verified"} <= found.keys()
    return set(found["files"]) if ours and isinstance(found.get("files"), dict) else None


def _only_arm(run: Path) -> str:
    arms = sorted(file.parent.name for file in run.glob("export/*/manifest.json"))
    if not arms:
        raise UserError(f"{run} holds no export: run `rational export` first")
    if len(arms) > 1:
        raise UserError(f"{run} holds the exports {', '.join(arms)}: choose one with --arm")
    return arms[0]


def _check_same_model(run: Path, arm: str, export: dict[str, Any], evaluation: dict[str, Any]) -> None:
    """The answers that were judged have to be those of the weights that were exported."""
    key = f"sample/{arm}"
    if key not in evaluation["inputs"]:
        raise UserError(f"{run}/evaluate says nothing of {arm}: sample and evaluate it, or use --no-evaluation")
    sample = read_stage(run / "sample" / arm, verb="sample")
    same = sample["digest"] == evaluation["inputs"][key]
    # What answered was either the training run's own weights or the merged export.
    answered = sample["inputs"]["model"]
    merged = {name: digest for name, digest in answered.get("files", {}).items() if name.endswith(".safetensors")}
    exported = {name.partition("/")[2]: digest for name, digest in export["outputs"].items() if name.startswith(MERGED)}
    known = answered.get("train") == export["inputs"]["train"] or (merged and merged.items() <= exported.items())
    if not (same and known):
        raise UserError(
            f"{run}/evaluate is not known to be of the {arm} that was exported: sample and evaluate it again with "
            "engine.backend=engine, or use --no-evaluation"
        )
