"""Answers as `gcloud` does, from a plan; used by test_tpu_scripts.py through a `gcloud` on PATH.

$GCLOUD_STAND_IN is a folder with `plan.json`: rules such as {"call": "create", "answers": [[1, "no capacity"]]}. A call
takes the next answer of the first rule whose words are in it, the last one again and again; without a rule it succeeds
silently. Text goes to stdout, where the code is 0, else to stderr; a warning always goes there, as gcloud has its own
now and then. All calls are written down in `calls.jsonl`.
"""

import json
import os
import sys
from pathlib import Path

folder = Path(os.environ["GCLOUD_STAND_IN"])
words = sys.argv[1:]
with (folder / "calls.jsonl").open("a") as file:
    file.write(json.dumps(words) + "\n")
print("WARNING: a newer version is there", file=sys.stderr)
for number, rule in enumerate(json.loads((folder / "plan.json").read_text())):
    if rule["call"] in " ".join(words):
        counter = folder / f"answered{number}"
        turn = int(counter.read_text()) if counter.exists() else 0
        counter.write_text(str(turn + 1))
        code, text = rule["answers"][min(turn, len(rule["answers"]) - 1)]
        print(text, file=sys.stderr if code else sys.stdout)
        sys.exit(code)
