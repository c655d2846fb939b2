import json
import shutil
import subprocess
import sys

import datasets
import pyarrow
import pyarrow.parquet
import pytest

from rational_jax.config import PromptSource
from rational_jax.data.rationale_dataset import write_hf, write_tfds
from rational_jax.data.rationale_dataset.columns import to_row
from rational_jax.data.schema import Rationale
from rational_jax.data.sources import digest_prompts, iter_prompts, read_prompts, read_rationales
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
    assert read_prompts(write(tmp_path, "a.json", json.dumps(rows(3)))) == expected
    assert read_prompts(write(tmp_path, "a.tsv", "\n".join(lines).replace(",", "\t"))) == expected
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
        ("a.doc", "x", r"read from \.csv, \.json, "),
    ],
)
def test_bad_files_name_file_and_line(tmp_path, name, data, message):
    with pytest.raises(UserError, match=message):
        read_prompts(write(tmp_path, name, data))


def test_missing_sources(tmp_path):
    with pytest.raises(UserError, match=r"nowhere\.jsonl: no such prompt file"):
        read_prompts(tmp_path / "nowhere.jsonl")
    with pytest.raises(UserError, match=r"micro/nosuch: no such prompt set or file; .*hf:micro/nosuch"):
        read_prompts("micro/nosuch")
    with pytest.raises(UserError, match=r"xtest: no such prompt set or file; did you mean xstest\?"):
        read_prompts("xtest")
    with pytest.raises(UserError, match=r"zzz: no such prompt set or file; the sets are .*micro/sft.*xstest"):
        read_prompts("zzz")
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
    shutil.copytree(tmp_path / "tfds" / "rationale_dataset" / "1.0.0", tmp_path / "version")
    for source in ("tfds", "tfds/rationale_dataset/1.0.0", "version"):
        assert read_rationales(tmp_path / source) == expected, source
    for source in ("hf", "parquet", "arrow", "splits", "lines.jsonl"):
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
    for name, write_dataset in (("tfds", write_tfds), ("hf", write_hf)):
        write_dataset([], tmp_path / name)
        with pytest.raises(UserError, match=f"{name}: holds no rationale"):
            read_rationales(tmp_path / name)


def test_rows_that_have_columns_of_curated_ones(tmp_path):
    row = {"id": "r", "prompt_id": "p", "prompt": "May I?", "layout": "rational", "answer": "Yes."}
    curated = to_row(rationales(1)[0])
    del curated["label"]
    for one, message in (
        (row, "x.jsonl:1: 'prompt_id' is not a field"),
        (row | {"prompt": str(curated["prompt"]), "meta": "[]"}, "x.jsonl:1: meta must be an object"),
        (curated, r"x.jsonl:1: has prompt_id, .*\(KeyError: 'label'\)"),
        (curated | {"label": "benign", "prompt": ["May I?"]}, r"x.jsonl:1: has prompt_id, .*\(TypeError: "),
        (curated | {"label": "benign", "sample": "one"}, r"x.jsonl:1: has prompt_id, .*\(ValueError: "),
    ):
        with pytest.raises(UserError, match=message):
            read_rationales(write(tmp_path, "x.jsonl", json.dumps(one)))


def questions(tmp_path, name="q.csv", text="May I?,food,yes,1\nAnd that?,,no,2\n"):
    return str(write(tmp_path, name, f"question,topic,toxic,n\n{text}"))


def test_columns_and_labels_of_a_file(tmp_path):
    source = PromptSource(
        source=questions(tmp_path),
        columns={"prompt": "question", "category": "topic", "label": "toxic", "number": "n"},
        labels={"yes": "harmful", "no": "benign"},
    )
    found = read_prompts(source)
    assert [(p.id, p.text, p.category, p.label, p.meta) for p in found] == [
        ("q:2", "May I?", "food", "harmful", {"number": "1"}),
        ("q:3", "And that?", "", "benign", {"number": "2"}),
    ]
    benign = PromptSource(source=questions(tmp_path), columns={"text": "question"}, label="benign")
    assert [(p.text, p.label, p.meta) for p in read_prompts(benign)] == [
        ("May I?", "benign", {}),
        ("And that?", "benign", {}),
    ]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"columns": {"prompt": "query"}},
            r"q\.csv:2: there is no column 'query'; there are question, topic, toxic, n",
        ),
        ({"columns": {"category": "topic"}}, r"q\.csv:2: a prompt needs exactly one of .* has none"),
        ({"columns": {"prompt": "topic"}}, r"q\.csv:3: the prompt is empty"),
        (
            {"columns": {"prompt": "question", "label": "n"}, "labels": {"1": "benign"}},
            r"q\.csv:3: label '2' is not am",
        ),
        ({"columns": {"prompt": "question"}, "split": "test"}, "is a file, so `split` says nothing about it"),
        ({"source": "xstest", "columns": {"prompt": "question"}}, "xstest: is a published set, so `columns` says"),
    ],
)
def test_what_is_wrong_with_columns(tmp_path, fields, message):
    with pytest.raises(UserError, match=message):
        read_prompts(PromptSource(**{"source": questions(tmp_path)} | fields))


def test_several_sources_in_turn(tmp_path):
    one = write(tmp_path, "one.jsonl", "".join(json.dumps(row) + "\n" for row in rows(3)))
    two = write(tmp_path, "two.txt", "first\nsecond\n")
    found = read_prompts([str(one), PromptSource(source=str(two), label="harmful")])
    assert [prompt.id for prompt in found] == ["p0", "p1", "p2", "two:1", "two:2"]
    assert [prompt.label for prompt in found] == ["benign"] * 3 + ["harmful"] * 2
    assert [prompt.id for prompt in read_prompts([one, two], limit=4)] == ["p0", "p1", "p2", "two:1"]
    again = shutil.copy(one, tmp_path / "again.jsonl")
    with pytest.raises(UserError, match=r"again\.jsonl:1: id 'p0' is already that of .*one\.jsonl:1"):
        read_prompts([one, two, again])


def test_one_text_with_two_labels(tmp_path):
    one = write(tmp_path, "one.jsonl", json.dumps({"text": "May I? ", "label": "benign"}))
    message = r"two\.jsonl:2: this prompt is labelled harmful, and the same text is labelled benign at .*one\.jsonl:1; "
    lines = [{"text": "x", "label": "harmful"}, {"text": "May I?", "label": "harmful"}]
    two = write(tmp_path, "two.jsonl", "".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(UserError, match=message):
        read_prompts([one, two])
    # The same label, none at all, or another system prompt is no contradiction.
    more = [
        {"text": "May I?", "label": "benign"},
        {"text": "May I?"},
        {"messages": [{"role": "system", "content": "No."}, {"role": "user", "content": "May I?"}], "label": "harmful"},
    ]
    three = write(tmp_path, "three.jsonl", "".join(json.dumps(line) + "\n" for line in more))
    assert len(read_prompts([one, three])) == 4


def test_where_keeps_what_is_asked_for(tmp_path):
    lines = [
        {"text": f"{label} {style}", "label": label, "style": style, "split": style[0]}
        for label in ("harmful", "benign")
        for style in ("base", "slang", "morse")
    ]
    path = str(write(tmp_path, "s.jsonl", "".join(json.dumps(line) + "\n" for line in lines)))
    texts = lambda **where: [p.text for p in read_prompts(PromptSource(source=path, where=where))]  # noqa: E731
    assert texts(label="benign", style=("base", "morse")) == ["benign base", "benign morse"]
    assert texts(split="s") == ["harmful slang", "benign slang"]
    with pytest.raises(UserError, match="holds no prompt"):
        texts(style="rhyme")


def test_one_source_in_two_sections_that_take_different_prompts(tmp_path):
    # The first two are one text with two labels, of which only one is ever taken.
    lines = [
        {"id": "a", "text": "x", "label": "harmful", "category": "old"},
        {"id": "b", "text": "x", "label": "benign", "category": "new"},
        {"id": "c", "text": "y", "label": "harmful", "category": "new"},
    ]
    path = str(write(tmp_path, "p.jsonl", "".join(json.dumps(line) + "\n" for line in lines)))
    harmful = PromptSource(source=path, where={"label": "harmful", "category": "new"})
    benign = PromptSource(source=path, where={"label": "benign"})
    assert [prompt.id for prompt in read_prompts([harmful, benign])] == ["c", "b"]
    halves = [benign.model_copy(update={"part": part, "where": {"category": "new"}}) for part in ("train", "test")]
    assert sorted(prompt.id for prompt in iter_prompts(halves)) == ["b", "c"]
    with pytest.raises(UserError, match=r"p\.jsonl:2: id 'b' is already that of line 2"):
        read_prompts([benign, benign])
    write(tmp_path, "p.jsonl", "".join(json.dumps(line | {"id": "a"}) + "\n" for line in lines))
    with pytest.raises(UserError, match=r"p\.jsonl:2: id 'a' is already that of line 1"):
        read_prompts(benign)


def test_the_digest_is_that_of_the_prompts_whatever_the_format(tmp_path):
    lines = write(tmp_path, "a.jsonl", "".join(json.dumps(row) + "\n" for row in rows(3)))
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows(3)), tmp_path / "b.parquet")
    digest = digest_prompts(read_prompts(lines))
    assert digest == digest_prompts(read_prompts(tmp_path / "b.parquet")) and len(digest) == 64
    assert digest != digest_prompts(read_prompts(lines, limit=2))


def test_a_hundred_thousand_prompts_in_bounded_memory(tmp_path):
    path = tmp_path / "many.txt"
    path.write_text("".join(f"prompt {i} {'and more of it ' * 30}\n" for i in range(100_000)))
    code = """
import resource, sys
from rational_jax.data.sources import iter_prompts
size = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
for number, prompt in enumerate(iter_prompts(sys.argv[1]), start=1):
    if number == 10_000:
        before = size()
print(number, size() - before)
"""
    done = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, check=True)
    number, grown = done.stdout.split()
    assert int(number) == 100_000
    # MiB. The file has 44; what is kept of each prompt is its id and where it stands.
    assert float(grown) < 80
