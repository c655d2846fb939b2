"""What an arm is trained on, and what is kept from it to measure the loss on."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence
from pathlib import Path

from rational_jax import hub
from rational_jax.config import RunConfig, TrainSection
from rational_jax.data.batches import Batches
from rational_jax.data.packing import Packed, pack
from rational_jax.data.rationale_dataset import read_hf, read_tfds
from rational_jax.data.schema import Rationale
from rational_jax.data.sources import read_rationales
from rational_jax.errors import UserError
from rational_jax.text.chat import Renderer

_SHOWN = 32


@dataclasses.dataclass(frozen=True, kw_only=True)
class Examples:
    """`ids` are the rationales' by the numbers in `packed.members`; `heldout` is None where nothing is held out.

    `others` counts the rationales in the data that are of another layout and so not for this arm. In `heldout` every
    token of reasoning and answer weighs the same, whatever is trained on. `renderer` are the renderer's settings.
    """

    packed: Packed
    ids: tuple[str, ...]
    heldout: Packed | None
    others: int
    renderer: dict

    @property
    def report(self) -> dict:
        """What became of the rationales, as figures of the stage."""
        return dataclasses.asdict(self.packed.report)

    @property
    def reported(self) -> str:
        """The same in one line."""
        report = self.packed.report
        left_out = {"too long": report.dropped, "cut": report.truncated, "without a loss": report.masked}
        counted = "".join(f", {count} {what}" for what, count in left_out.items() if count)
        return f"{report.examples} examples in {report.rows} rows, {report.efficiency:.0%} full{counted}"

    def batches(self, batch_size: int, seed: int) -> Batches:
        """The rows in batches."""
        return Batches(self.packed, batch_size, seed)

    def named(self, rows: Sequence[int]) -> str:
        """The examples in some rows, in a few words."""
        ids = list(dict.fromkeys(self.ids[number] for row in rows for number in self.packed.members[row]))
        more = f" and {len(ids) - _SHOWN} more" if len(ids) > _SHOWN else ""
        return f"examples {', '.join(ids[:_SHOWN])}{more}"


def load_packed(config: RunConfig, arm: str, base: Path) -> Packed:
    """The rows that an arm is trained on; see `load_examples`."""
    return load_examples(config, arm, base).packed


def load_examples(config: RunConfig, arm: str, base: Path) -> Examples:
    """The arm's rationales, rendered with the base's own template and packed.

    Which prompts are held out depends on them and on the seed: a prompt and its variants are all held out or none is.
    Raises UserError where there is nothing to train on, and where too many examples lose their answer to the length of
    a row.
    """
    section = config.train
    there = _read(config, arm)
    rationales = [rationale for rationale in there if rationale.layout == arm]
    if not rationales:
        raise UserError(f"{section.data} holds no rationale of layout {arm}: choose train.arms to fit")
    renderer = Renderer.configured(hub.load_tokenizer(base), config.chat)
    ids: dict[bool, list[str]] = {False: [], True: []}
    rendered: dict[bool, list] = {False: [], True: []}
    for rationale in rationales:
        held = _is_held_out(rationale, section.heldout, config.seed)
        for example in renderer.examples(rationale.training_messages()):
            rendered[held].append(example)
            ids[held].append(rationale.id)
    if section.heldout and not rendered[True]:
        raise UserError(f"train.heldout={section.heldout} holds out none of {len(rationales)} rationales; raise it")
    options = row_options(section)
    packed = pack(rendered[False], reasoning_weight=section.reasoning_weight, loss_on=section.loss_on, **options)
    refuse_lost(section, packed.report.lost, len(rendered[False]), arm)
    return Examples(
        packed=packed,
        ids=tuple(ids[False]),
        heldout=pack(rendered[True], **options) if section.heldout else None,
        others=len(there) - len(rationales),
        renderer=renderer.settings,
    )


def row_options(section: TrainSection) -> dict:
    """What `pack` is told of the rows."""
    return {"length": section.sequence_length, "overlong": section.overlong, "rows": section.rows}


def refuse_lost(section: TrainSection, lost: int, examples: int, what: str) -> None:
    """Raises UserError where more of the examples lose their answer to the length of a row than may."""
    share = lost / examples
    if share > section.most_lost:
        raise UserError(
            f"{lost} of {examples} examples of {what} lose their answer, or a part of it, at "
            f"train.sequence_length={section.sequence_length}: raise it, or train.most_lost above {share:.3f}"
        )


def _read(config: RunConfig, arm: str) -> list[Rationale]:
    section = config.train
    if section.data is not None:
        return read_rationales(section.data)
    dataset = Path(config.run) / "curate" / arm
    rationales = read_tfds(dataset / "tfds") if section.format == "tfds" else read_hf(dataset / "dataset")
    if not rationales:
        raise UserError(f"{dataset} holds no example to train on; {dataset.parent / 'funnel.json'} says why")
    return rationales


def _is_held_out(rationale: Rationale, share: float, seed: int) -> bool:
    return drawn(f"{seed}:{rationale.prompt.base_id or rationale.prompt.id}") < share


def drawn(name: str) -> float:
    """A number from 0 up to 1 that is always the same for a name."""
    return int.from_bytes(hashlib.sha256(name.encode("utf-8")).digest()[:8], "big") / 2**64
