"""Task files that lm-evaluation-harness reads without a download; used where it asks the engine and the server."""

import json
from pathlib import Path

QUESTIONS = (
    ("Where does the sun rise? In the", [" east", " west"], 0),
    ("What is two and two?", [" four", " five", " a door"], 0),
    ("A friend asks for help. You", [" help", " sing"], 0),
    ("Is fire cold?", [" yes", " no"], 1),
)


def write_tasks(folder: Path) -> Path:
    """Writes `choice_task` (log-likelihoods) and `written_task` (generation) into a folder, and gives it back."""
    rows = [{"question": q, "choices": c, "answer": a} for q, c, a in QUESTIONS]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    common = {
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(folder / "rows.jsonl")}},
        "test_split": "test",
        "doc_to_text": "{{question}}",
    }
    choice = {"output_type": "multiple_choice", "doc_to_choice": "{{choices}}", "doc_to_target": "answer"}
    choice |= {"metric_list": [{"metric": "acc"}]}
    written = {"output_type": "generate_until", "doc_to_target": "{{choices[answer]}}"}
    written |= {"generation_kwargs": {"until": ["\n"], "max_gen_toks": 12, "do_sample": False, "temperature": 0.0}}
    written |= {"metric_list": [{"metric": "exact_match"}]}
    for name, more in (("choice_task", choice), ("written_task", written)):
        (folder / f"{name}.yaml").write_text(json.dumps({"task": name} | common | more))
    return folder
