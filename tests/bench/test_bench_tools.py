"""bench/run's arguments and file of results, tables and pictures of small files, broken ones, and the copying of contexts in the
llama.cpp peer."""
import argparse
import importlib.machinery
import importlib.util
import json
import shutil
import struct
import subprocess
import sys
import types
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
HEAD = "when,commit,machine,part,subject,test,value,unit,ratio_to,ratio,target,met\n"
ROWS = """2026-01-01T00:00:00Z,aaa,other,context,teacher,d1024,1,tokens/s,,,,
2026-01-01T00:00:00Z,abc,box,context,teacher,d1024,77,tokens/s,,,,
2026-01-02T00:00:00Z,abc,box,context,teacher,d1024,50,tokens/s,teacher,1,,
2026-01-02T00:00:00Z,abc,box,context,teacher,d32768,5,tokens/s,teacher,1,,
2026-01-02T00:00:00Z,abc,box,context,"Zebra <4> %",d1024,60,tokens/s,teacher,1.2,,
2026-01-02T00:00:00Z,abc,box,context,"Zebra <4> %",d32768,40.5,tokens/s,teacher,8.1,4,yes
2026-01-02T00:00:00Z,abc,box,context,teacher,d1024,120,MB/token,,,,
2026-01-02T00:00:00Z,abc,box,decode,llama.cpp,tg32,100,tokens/s,,,,
2026-01-02T00:00:00Z,abc,box,decode,zebra,tg32,120,tokens/s,llama.cpp,1.2,1.5,no
2026-01-02T00:00:00Z,abc,box,kernels,gemv8_q4_0,64 x 1,3,GB/s,,,0.85,
2026-01-02T00:00:00Z,abc,box,shapes,zebra-8b,d32768 in 14G,1234.5,tokens/s,mamba-in-llama-8b,3,2.6,yes
"""


def tool(name, *args):
    return subprocess.run([sys.executable, ROOT / "bench" / name, *map(str, args)], capture_output=True, text=True, timeout=120)


def test_run_lists_its_parts_and_refuses_others():
    parts = tool("run", "--list").stdout.splitlines()
    assert [line.split()[0] for line in parts] == ["machine", "kernels", "decode", "train", "layers", "context", "shapes",
                                                   "start"]
    assert all(line.endswith(".") for line in parts)
    done = tool("run", "decoed")
    assert done.returncode == 2 and "unknown part decoed" in done.stderr


def test_plot(tmp_path):
    (tmp_path / "r.csv").write_text(HEAD + ROWS)
    done = tool("plot", "--csv", tmp_path / "r.csv", "--out", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    text = (tmp_path / "out/results.md").read_text()
    assert "Machine: box." in text and "| teacher | d1024 | 50.0 | tokens/s | teacher | 1.00x |" in text
    assert "77" not in text  # older
    assert "| decode | zebra | tg32 | 120 | tokens/s | llama.cpp | 1.20x | 1.50x | no |" in text
    assert "| zebra-8b | d32768 in 14G | 1,234 | tokens/s |" in text or "1,235" in text
    for line in text.splitlines():
        assert not line.startswith("|") or line.endswith("|")
    if shutil.which("gnuplot"):
        made = sorted(p.name for p in (tmp_path / "out").glob("*.svg"))
        assert made == ["bytes.svg", "context.svg", "peers.svg", "shapes.svg"]
        picture = (tmp_path / "out/context.svg").read_text()
        assert "Zebra  4  %" in picture and ">32k<" in picture and picture.rstrip().endswith("</svg>")


@pytest.mark.parametrize("text, message", [("", "found "), (HEAD, "expected rows"), ("a,b\n1,2\n", "expected the columns"),
                                           (HEAD + "w,c,m,p,s,t,fast,u,,,,\n", "r.csv:2: value: expected a number"),
                                           (HEAD + ROWS + "w,c,m,p,s,t,1,u,,much,,\n", "ratio: expected a number, found 'much'"),
                                           (HEAD + "w,c,m,p,s,t,nan,u,,,,\n", "value: expected a number, found 'nan'"),
                                           (HEAD + ROWS[:-30], "r.csv:12: expected 12 values, found fewer"),
                                           (HEAD + "w,c,m,p,s,t,1,u,,,,,\n", "r.csv:2: expected 12 values, found more")])
def test_plot_refuses(tmp_path, text, message):
    (tmp_path / "r.csv").write_text(text)
    done = tool("plot", "--csv", tmp_path / "r.csv", "--out", tmp_path / "out")
    assert done.returncode == 1 and message in done.stderr and len(done.stderr.splitlines()) == 1, done.stderr
    assert not (tmp_path / "out").exists()
    assert "expected (bench/run writes it)" in tool("plot", "--csv", tmp_path / "none.csv").stderr


@pytest.fixture
def peer(monkeypatch):
    """The script of the peer without the peer."""
    package, low = types.ModuleType("llama_cpp"), types.ModuleType("llama_cpp.llama_cpp")
    package.llama_cpp = low
    monkeypatch.setitem(sys.modules, "llama_cpp", package)
    monkeypatch.setitem(sys.modules, "llama_cpp.llama_cpp", low)
    path = str(ROOT / "bench/peers/llama_cpp_bench.py")
    spec = importlib.util.spec_from_loader("peer", importlib.machinery.SourceFileLoader("peer", path))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("transposed", [0, 1])
def test_contexts_are_copied_cell_by_cell(peer, transposed):
    """Two layers of two cells become five cells: 0 1 0 1 0."""
    def state(cells):
        out = struct.pack("<IiII", 7, 0, 1, len(cells))
        out += b"".join(struct.pack("<iIi", i, 1, 0) for i in range(len(cells)))
        out += struct.pack("<II", transposed, 2)
        for layer in range(2):
            out += struct.pack("<iQ", 1, 4) + b"".join(bytes([layer, cell, 2, 3]) for cell in cells)
        for layer in range(2):
            if transposed:
                out += struct.pack("<iII", 1, 2, 3)
                out += b"".join(bytes([row + layer, cell]) for row in range(3) for cell in cells)
            else:
                out += struct.pack("<iQ", 1, 2) + b"".join(bytes([cell, layer]) for cell in cells)
        return out
    assert peer.stretch_state(state([0, 1]), 5) == state([0, 1, 0, 1, 0])


def load(monkeypatch, name):
    """A program of bench/ as a module."""
    monkeypatch.syspath_prepend(str(ROOT / "bench"))
    spec = importlib.util.spec_from_loader(name, importlib.machinery.SourceFileLoader(name, str(ROOT / "bench" / name)))
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def quality(monkeypatch):
    return load(monkeypatch, "quality")


@pytest.fixture
def measure(monkeypatch):
    return load(monkeypatch, "run")


@pytest.mark.parametrize("before", [None, "", HEAD, HEAD + ROWS])
def test_results_are_appended_under_their_heads(tmp_path, measure, monkeypatch, before):
    monkeypatch.setattr(measure, "run", lambda *command: "abc\n" if "rev-parse" in command else "")
    path = tmp_path / "r.csv"
    if before is not None:
        path.write_text(before)
    measure.Results(path).add("start", "zebra", "to the first token", 12.5, "ms", "llama.cpp", 1.25, 1)
    text = path.read_text()
    assert text.startswith(before or HEAD) and text.count(HEAD) == 1
    assert text.splitlines()[-1].endswith(",start,zebra,to the first token,12.5,ms,llama.cpp,1.25,1,yes")
    assert tool("plot", "--csv", path, "--out", tmp_path / "out").returncode == 0


def test_results_of_another_form_are_refused_before_measuring(tmp_path, measure):
    (tmp_path / "r.csv").write_text("a,b\n1,2\n")
    with pytest.raises(SystemExit, match="expected the columns when,commit"):
        measure.Results(tmp_path / "r.csv")
    assert (tmp_path / "r.csv").read_text() == "a,b\n1,2\n"


def test_a_program_that_is_not_there_ends_a_part_alone(measure):
    with pytest.raises(RuntimeError, match="no-such-program: No such file"):
        measure.run("no-such-program", "--version")


TASKS = ["arc_challenge", "arc_easy", "hellaswag", "mmlu", "openbookqa", "piqa", "winogrande"]


def quality_report(average=0.3, tasks=None):
    student = {"kv_percent": 3.90625, "kv_bytes_per_token": 1800, "state_bytes": 4096, "kl_to_teacher": 1.95159, "perplexity": 164.3,
               "average": average, "average_difference_stderr": 0.004, "tasks": dict.fromkeys(TASKS, {"acc": 0.6, "acc_stderr": 0.05}) if tasks is None else tasks, "associative": {"16": {"128": 0.25, "99": 1}},
               "seconds": {"assemble": 10.4, "eval": 100, "eval_teacher": 9, "distill": 5}}
    teacher = {"kv_bytes_per_token": 46080, "state_bytes": 0, "perplexity": 22.8, "average": 0.4}
    return {"teacher": teacher, "student": student, "missing": ["teacher: speed: not measured"]}


def test_quality_row_and_plot(tmp_path, quality):
    (tmp_path / "report.json").write_text(json.dumps(quality_report()))
    needles = [("niah_single_1", 1024, 25, {"score": 0.625}), ("niah_single_1", 2048, 50, {"score": 1}), ("niah_single_2", 1024, 50, {"score": 1}),
               ("niah_single_1", 1024, 75, {"greedy": 1}), ("niah_single_1", 1024, 33, {"score": 1})]
    (tmp_path / "recall").mkdir()
    (tmp_path / "recall/student.json").write_text(json.dumps({"cells": [{"test": t, "length": n, "depth": d, **found} for t, n, d, found in needles]}))
    o = argparse.Namespace(seed=42, limit=100, part_limit=4, set=[])
    for name, tokens in (("zebra", 0), ("zebra", 1000), ("x-ecomla/calibrated-50", 0)):
        row = quality.row_of(name, tokens, o, tmp_path)
        assert list(row) == quality.COLUMNS
        quality.write_rows(tmp_path / "q.csv", quality.COLUMNS, quality.read_rows(tmp_path / "q.csv", quality.COLUMNS) + [row])
    row = quality.read_rows(tmp_path / "q.csv", quality.COLUMNS)[1]
    assert (row["tokens"], row["seconds"], row["retained_percent"], row["bytes_2k"]) == ("1000", "15", "75.0", str(2048 * 1800 + 4096))
    assert row["recall_128"] == "0.25" and row["teacher_recall_128"] == ""
    assert {c: v for c, v in row.items() if "needle" in c and v} == {"needle_25": "0.625"}
    (tmp_path / "distill").mkdir()  # a run that went on from a shorter one: all its steps count
    (tmp_path / "distill/log.jsonl").write_text('{"step": 0, "valid_kl": 1}\n{"step": 1, "step_ms": 20000}\n{"step": 2, "step_ms": 30000.4}\n')
    assert quality.row_of("zebra", 2000, o, tmp_path, True)["seconds"] == 60
    assert quality.mean_recall(row) == 25
    more = [{**row, "docs": docs} for docs in ("100/4", "1000/12", "200/4")] + [{**row, "tokens": "0"}]
    assert [(r["tokens"], r["docs"]) for r in quality.on_most_documents(more)] == [("1000", "1000/12"), ("0", "100/4")]
    assert row["retained_stderr"] == "1.0"
    assert row["piqa_acc"] == "0.6" and row["piqa_acc_norm"] == ""
    (tmp_path / "report.json").write_text(json.dumps(quality_report(tasks={"piqa": {"acc": 0.6}})))
    assert quality.row_of("zebra", 0, o, tmp_path)["average"] == ""  # an average of fewer tasks is another figure
    for limit, part, said in ((100, 4, "100/4"), (100, 0, "100/100"), (0, 0, "all"), (0, 4, "all/4")):
        assert quality.docs_of(argparse.Namespace(limit=limit, part_limit=part)) == said
    more = [{**row, "docs": docs} for docs in ("100/4", "all/4", "all", "1000/1000")]
    assert [r["docs"] for r in quality.on_most_documents(more)] == ["all"]
    whole = (tmp_path / "q.csv").read_text()
    for broken, said in ((whole[:-40], f"expected {len(quality.COLUMNS)} values, found fewer"), (whole.replace("1.9516", "x"), "broken.csv:2: kl: expected a number, found 'x'"),
                         (whole.splitlines()[0] + "\n", "expected rows, found none"), ("", "found none")):
        (tmp_path / "broken.csv").write_text(broken)
        done = tool("quality", "--plot", "--csv", tmp_path / "broken.csv", "--out", tmp_path / "none")
        assert done.returncode == 1 and said in done.stderr and len(done.stderr.splitlines()) == 1, done.stderr
        assert not (tmp_path / "none").exists()
    done = tool("quality", "--plot", "--csv", tmp_path / "q.csv", "--out", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert not list(tmp_path.rglob("*.new"))
    text = (tmp_path / "out/quality.md").read_text()
    assert "| zebra | 1,000 | 3.91 | 1800 | 4096 |" in text and "| 75.0 ± 1.0 |" in text
    assert "| zebra | 1,000 | 100/4 |  | 0.625 |  |  |  |" in text
    if shutil.which("gnuplot"):
        picture = (tmp_path / "out/quality.svg").read_text()
        assert "zebra, untrained" in picture and "x-ecomla, calibrated, untrained" in picture
        assert "zebra, untrained" in (tmp_path / "out/quality-recall.svg").read_text()
        trained = (tmp_path / "out/quality-tokens.svg").read_text()
        assert "zebra" in trained and "x-ecomla" not in trained  # one number of tokens is no line


def test_quality_knows_its_recipes(tmp_path, quality):
    listed = tool("quality", "--list").stdout.split()
    assert {"zebra", "zebra-paper", "x-ecomla/50", "mamba-in-llama/0"} <= set(listed)
    assert all((ROOT / f"recipes/{name.partition('/')[0]}.yaml").exists() for name in listed)
    assert "unknown recipe zebra/nothing" in tool("quality", "zebra/nothing").stderr
    (tmp_path / "bad.csv").write_text("a,b\n")
    assert "expected the columns" in tool("quality", "--plot", "--csv", tmp_path / "bad.csv").stderr


def test_ablations_lists_and_prints_rows(tmp_path):
    listed = tool("ablations", "--list").stdout
    assert "ridge: base, 0.001" in listed and "learning rate: base" in listed
    assert "unknown question 'nothing'" in tool("ablations", "nothing").stderr
    heads = "question,setting,kl,perplexity,same_best,start_tokens,train_tokens,valid_tokens,seconds,seed,commit"
    (tmp_path / "a.csv").write_text(heads + "\nridge,0.1,1.2345,70.1,0.4567,4096,0,4096,9,42,abc\n")
    done = tool("ablations", "--table", "--csv", tmp_path / "a.csv")
    assert "| ridge | 0.1 | 1.2345 | 70.1 | 45.7 | 0 |" in done.stdout, done.stderr
    assert "expected rows, found none" in tool("ablations", "--table", "--csv", tmp_path / "none.csv").stderr
    (tmp_path / "bad.csv").write_text(heads + "\nridge,0.1,1.2345,70.1,often,4096,0,4096,9,42,abc\n")
    assert "bad.csv:2: same_best: expected a number, found 'often'" in tool("ablations", "--table", "--csv", tmp_path / "bad.csv").stderr
    (tmp_path / "bad.csv").write_text("a,b\n")
    assert "expected the columns" in tool("ablations", "--table", "--csv", tmp_path / "bad.csv").stderr
