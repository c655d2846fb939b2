"""The published prompt sets there are by name: where each lies, what its files are called, what a row of it says.

None of their text is in this package. A set is fetched from where its authors publish it, or read from a local copy
(`xstest@PATH`), a file or a folder as it was cloned.
"""

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass

from rational_jax.data import benchmark_rows as rows
from rational_jax.data.benchmark_rows import Fields, Row

PAPER_STYLES = (
    "question",
    "slang",
    "uncommon_dialects",
    "technical_terms",
    "role_play",
    "misspellings",
    "logical_appeal",
    "authority_endorsement",
    "misrepresentation",
    "evidence-based_persuasion",
    "expert_endorsement",
)
"""The eleven styles of SORRY-Bench that RATIONAL was trained and tested on (arXiv 2503.05021)."""

PAPER = "paper"
"""What stands for them in a configuration: `where: {style: paper}`."""


def paper_styles(there: Collection[str]) -> tuple[str, ...]:
    """The paper's styles in a copy that has those; where it has no "question", its base questions stand for them."""
    return tuple("base" if style == "question" and style not in there else style for style in PAPER_STYLES)


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """A published prompt set.

    Attributes:
        about: what its prompts are, in a few words.
        rows: from a row to the fields of the prompts in it (`Prompt.from_json`), with ids that are unique in the set.
        files: patterns of its files' paths, tried in this order; the first that matches anything says which are read.
            The first one is how the published files are called.
        hub: dataset on the Hugging Face Hub; empty where its authors publish it elsewhere, at `urls`.
        gated: access is asked for on its page.
        as_lines: its files hold one prompt a line, whatever they are called.
    """

    about: str
    rows: Callable[[Row], Iterator[Fields]]
    files: tuple[str, ...]
    hub: str = ""
    urls: tuple[str, ...] = ()
    gated: bool = False
    as_lines: bool = False

    @property
    def page(self) -> str:
        """Where to read about it and, where it is gated, to ask for access."""
        return f"https://huggingface.co/datasets/{self.hub}" if self.hub else self.urls[0]


_SORRY = ("question*.jsonl", "*.jsonl", "*.parquet", "*.csv")
_RAW = "https://raw.githubusercontent.com"
_ARTIFACTS = f"{_RAW}/JailbreakBench/artifacts/main/attack-artifacts"

BENCHMARKS: dict[str, Benchmark] = {
    "sorry-bench": Benchmark(
        about="45 kinds of unsafe requests x 10, base and 20 styles (version 2024/06, the paper's)",
        hub="sorry-bench/sorry-bench-202406",
        files=_SORRY,
        gated=True,
        rows=rows.sorry_bench,
    ),
    "sorry-bench-202503": Benchmark(
        about="44 kinds of unsafe requests x 10, base and 20 styles (version 2025/03)",
        hub="sorry-bench/sorry-bench-202503",
        files=_SORRY,
        gated=True,
        rows=rows.sorry_bench,
    ),
    "hex-phi": Benchmark(
        about="10 kinds of prohibited uses x 30",
        hub="LLM-Tuning-Safety/HEx-PHI",
        files=("category_*.csv", "category_*.txt"),
        gated=True,
        as_lines=True,
        rows=rows.hex_phi,
    ),
    "coconot": Benchmark(
        about="1,001 requests that should not simply be complied with",
        hub="allenai/coconot",
        files=("original/test-*.parquet", "coconot_eval.jsonl"),
        rows=rows.coconot,
    ),
    "coconot-contrast": Benchmark(
        about="379 requests that look like those and should be complied with",
        hub="allenai/coconot",
        files=("contrast/test-*.parquet", "coconot_contrast_eval.jsonl"),
        rows=rows.coconot_contrast,
    ),
    "harmbench": Benchmark(
        about="400 behaviours: 200 standard, 100 contextual (the context stands before the request), 100 copyright",
        urls=(f"{_RAW}/centerforaisafety/HarmBench/main/data/behavior_datasets/harmbench_behaviors_text_all.csv",),
        files=("harmbench_behaviors_text_all.csv",),
        rows=rows.harmbench,
    ),
    "jailbreakbench": Benchmark(
        about="100 harmful requests and their 100 benign twins",
        hub="JailbreakBench/JBB-Behaviors",
        files=("data/*-behaviors.csv", "*behaviors*.csv"),
        rows=rows.jailbreakbench,
    ),
    "jailbreakbench-transfer": Benchmark(
        about="jailbreak prompts that were found against other models (PAIR and GCG on Vicuna), replayed",
        urls=(
            f"{_ARTIFACTS}/PAIR/black_box/vicuna-13b-v1.5.json",
            f"{_ARTIFACTS}/GCG/white_box/vicuna-13b-v1.5.json",
        ),
        files=("*vicuna*.json", "*.json"),
        rows=rows.jailbreakbench_transfer,
    ),
    "strongreject": Benchmark(
        about="313 forbidden requests",
        urls=(f"{_RAW}/alexandrasouly/strongreject/main/strongreject_dataset/strongreject_dataset.csv",),
        files=("strongreject_dataset.csv",),
        rows=rows.strongreject,
    ),
    "xstest": Benchmark(
        about="250 safe requests that sound unsafe, and 200 unsafe ones in contrast",
        hub="Paul/XSTest",
        files=("xstest_prompts.csv", "xstest_v2_prompts.csv"),
        rows=rows.xstest,
    ),
    "or-bench-80k": Benchmark(
        about="80,000 harmless requests that models refuse",
        hub="bench-llm/or-bench",
        files=("or-bench-80k.csv",),
        rows=rows.or_bench("benign"),
    ),
    "or-bench-hard-1k": Benchmark(
        about="the 1,000 of them that models refuse most",
        hub="bench-llm/or-bench",
        files=("or-bench-hard-1k.csv",),
        rows=rows.or_bench("benign"),
    ),
    "or-bench-toxic": Benchmark(
        about="600 requests that should be refused",
        hub="bench-llm/or-bench",
        files=("or-bench-toxic.csv",),
        rows=rows.or_bench("harmful"),
    ),
    "wildjailbreak": Benchmark(
        about="2,000 harmful and 210 harmless requests in jailbreaks (the eval part)",
        hub="allenai/wildjailbreak",
        files=("eval/eval.tsv", "eval.tsv", "*.jsonl"),
        gated=True,
        rows=rows.wildjailbreak,
    ),
    "wildguardtest": Benchmark(
        about="1,725 requests, harmful and harmless, plain and adversarial, with judged answers",
        hub="allenai/wildguardmix",
        files=("test/wildguard_test.parquet", "wildguard_test.parquet"),
        gated=True,
        rows=rows.wildguardtest,
    ),
    "advbench": Benchmark(
        about="520 harmful instructions",
        urls=(f"{_RAW}/llm-attacks/llm-attacks/main/data/advbench/harmful_behaviors.csv",),
        files=("harmful_behaviors.csv", "advbench_behaviors.csv"),
        rows=rows.advbench,
    ),
    "do-not-answer": Benchmark(
        about="939 questions that a responsible model does not answer",
        hub="LibrAI/do-not-answer",
        files=("data_en.csv", "data/train-*.parquet"),
        rows=rows.do_not_answer,
    ),
}
"""The published sets by the names that `curate.prompts` and `sample.suites` take."""

ALIASES = {"sorry-bench-202406": "sorry-bench"}
