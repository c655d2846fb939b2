import json
import shutil

import datasets
import pyarrow
import pyarrow.parquet
import pytest

from rational_jax.data.rationale_dataset import write_hf, write_tfds
from rational_jax.data.rationale_dataset.columns import to_row
from rational_jax.data.schema import Rationale
from rational_jax.data.sources import read_prompts, read_rationales
from rational_jax.errors import UserError


def write(tmp_path, name, data):
    path = tmp_path / name
    path.write_bytes(data if isinstance(data, bytes) else data.encode("utf-8"))
    return path


def rows(count):
    return [{"id": f"p{i}", "text": f"prompt {i}", "label": "benign", "split": "x"} for i in range(count)]


def test_the_same_prompts_from_every_format(tmp_path):
    expected = read_prompts(write(tmp_path, "a.jsonl", "".join(json.dumps(row) + "\n" for row in rows(3))))
    assert [prompt.id for prompt in expected] == ["p0", "p1", "p2"] and expected[0].meta == {"split": "x"}
    lines = ["id,text,label,split", *(",".join(row.values()) for row in rows(3))]
    assert read_prompts(write(tmp_path, "a.csv", "\n".join(lines))) == expected
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows(3)), tmp_path / "a.parquet")
    assert read_prompts(tmp_path / "a.parquet") == expected
    text = read_prompts(write(tmp_path, "a.txt", "prompt 0\n\n  prompt 1 \r\n"))
    assert [(prompt.id, prompt.text, prompt.label) for prompt in text] == [
        ("a:1", "prompt 0", "unknown"),
        ("a:3", "prompt 1", "unknown"),
    ]


def test_bom_crlf_blank_lines_and_unicode_separators(tmp_path):
    content = "one\u2028two\x85three"
    line = json.dumps({"id": "é", "text": content}, ensure_ascii=False)
    path = write(tmp_path, "a.jsonl", b"\xef\xbb\xbf" + line.encode() + b"\r\n\r\n" + b'{"id":"b","text":"x"}')
    first, second = read_prompts(path)
    assert (first.id, first.text) == ("é", content) and second.id == "b"
    csv = write(tmp_path, "a.csv", b'\xef\xbb\xbfid,text,category\r\n1,"two\r\nlines, ""quoted""",\r\n')
    assert read_prompts(csv)[0].text == 'two\r\nlines, "quoted"'


def test_limit_reads_no_further(tmp_path):
    path = write(tmp_path, "a.jsonl", json.dumps(rows(1)[0]) + "\nbroken\n")
    assert len(read_prompts(path, limit=1)) == 1
    with pytest.raises(UserError, match=r"a\.jsonl:2: not valid JSON"):
        read_prompts(path, limit=2)


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("a.jsonl", '{"id": "a", "text": "x"}\n[1, 2]\n', r"a\.jsonl:2: expected an object with fields, got a list"),
        (
            "a.jsonl",
            '{"id": "a", "text": "x"}\n\n{"id": "a", "text": "y"}\n',
            r"a\.jsonl:3: id 'a' is already .* line 1",
        ),
        ("a.jsonl", '{"id": "a", "text": "x"', r"a\.jsonl:1: not valid JSON"),
        ("a.jsonl", b'{"id": "a", "text": "\xff"}', r"a\.jsonl:1: not UTF-8"),
        ("a.jsonl", '{"text": "x"}\n{"prompt": 42}', r"a\.jsonl:2: prompt must be a text, got a number"),
        ("a.jsonl", '{"id": "a", "text": ""}', r"a\.jsonl:1: the prompt is empty"),
        ("a.jsonl", "[" * 100_000, r"a\.jsonl:1: JSON that cannot be read"),
        ("a.jsonl", "\n \n", "holds no prompt"),
        ("a.csv", "id,text\n1\n", r"a\.csv:2: .*columns"),
        ("a.csv", "id,text\n1,x,y\n", r"a\.csv:2: .*columns"),
        ("a.csv", "id,text\n1,\n", r"a\.csv:2: the prompt is empty"),
        ("a.csv", b"id,text\n1,\xff\n", "not a CSV file"),
        ("a.csv", 'id,text\n1,"x\n', "not a CSV file"),
        ("a.parquet", b"PAR1 no", "not a readable Parquet"),
        ("a.txt", "", "holds no prompt"),
        ("a.doc", "x", r"read from \.csv, \.jsonl"),
    ],
)
def test_bad_files_name_file_and_line(tmp_path, name, data, message):
    with pytest.raises(UserError, match=message):
        read_prompts(write(tmp_path, name, data))


def test_missing_sources(tmp_path):
    with pytest.raises(UserError, match=r"nowhere\.jsonl: no such prompt file"):
        read_prompts(tmp_path / "nowhere.jsonl")
    with pytest.raises(UserError, match="micro/nosuch: no such prompt set"):
        read_prompts("micro/nosuch")
    with pytest.raises(UserError, match="no such prompt file"):
        read_prompts(tmp_path)


def rationales(count):
    prompts = read_prompts("micro/sft", count)
    return [Rationale(id=f"r{i}", prompt=p, reasoning=f"because {i}", answer="Yes.") for i, p in enumerate(prompts)]


def test_the_same_rationales_from_every_source(tmp_path):
    expected = rationales(5)
    write_tfds(expected, tmp_path / "tfds")
    write_hf(expected, tmp_path / "hf")
    # As somebody else would have it: the Parquet files alone, a folder of `datasets`, JSON lines.
    shutil.copytree(tmp_path / "hf" / "data", tmp_path / "parquet")
    table = datasets.Dataset.from_list([to_row(rationale) for rationale in expected])
    table.save_to_disk(str(tmp_path / "arrow"))
    datasets.DatasetDict({"train": table, "test": table.select([0])}).save_to_disk(str(tmp_path / "splits"))
    lines = "".join(json.dumps(rationale.to_json()) + "\n" for rationale in expected)
    write(tmp_path, "lines.jsonl", lines)
    for source in ("tfds", "hf", "parquet", "arrow", "splits", "lines.jsonl"):
        assert read_rationales(tmp_path / source) == expected, source


def test_plain_rows_are_rationales(tmp_path):
    row = {"prompt": "May I?", "label": "benign", "answer": "Yes."}
    path = write(tmp_path, "x.jsonl", "".join(json.dumps(r) + "\n" for r in (row | {"reasoning": "It is safe."}, row)))
    first, second = read_rationales(path)
    assert (first.id, first.layout, first.reasoning, first.prompt.text) == ("x:1", "rational", "It is safe.", "May I?")
    assert (second.layout, second.reasoning, second.prompt.label) == ("refusal", "", "benign")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"prompt": "May I?"}, "x.jsonl:1: a rationale needs an answer"),
        ({"prompt": "May I?", "answer": 3}, "x.jsonl:1: a rationale needs an answer"),
        ({"prompt": "May I?", "answer": "No.", "layout": "odd"}, "layout 'odd'"),
        ({"answer": "No."}, "exactly one of messages, prompt, text"),
        (3, "expected an object"),
    ],
)
def test_rationales_that_are_none(tmp_path, row, message):
    with pytest.raises(UserError, match=message):
        read_rationales(write(tmp_path, "x.jsonl", json.dumps(row)))


def test_no_rationales(tmp_path):
    (tmp_path / "empty").mkdir()
    write(tmp_path, "x.txt", "hello")
    for source, message in (("empty", "are read from"), ("nowhere", "no such"), ("x.txt", "are read from")):
        with pytest.raises(UserError, match=message):
            read_rationales(tmp_path / source)
    with pytest.raises(UserError, match="holds no rationale"):
        read_rationales(write(tmp_path, "x.jsonl", ""))
