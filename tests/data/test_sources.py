import json

import pyarrow
import pyarrow.parquet
import pytest

from rational_jax.data.sources import read_prompts
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
