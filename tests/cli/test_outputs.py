"""Where results go: nothing that stood there is lost, and what cannot be written is refused before the work."""
import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ZEBRA = (ROOT / os.environ.get("ZB_BUILD", "build/release")) / "src/cli/zebra"
GOLDEN = ROOT / "tests/golden"
EVAL = ROOT / "tests/unit/eval"


def zebra(*args, cwd=ROOT):
    return subprocess.run([ZEBRA, *map(str, args)], capture_output=True, text=True, timeout=120, cwd=cwd,
                          env={**os.environ, "OMP_WAIT_POLICY": "passive"})


def refused(said, *args):
    done = zebra(*args)
    assert done.returncode not in (0, 1), (done.returncode, done.stderr)
    assert said in done.stderr, done.stderr
    return done


def content(folder):
    return {p.relative_to(folder): p.read_bytes() for p in Path(folder).rglob("*") if p.is_file()}


@pytest.fixture
def llama(tmp_path):
    return shutil.copytree(GOLDEN / "llama", tmp_path / "llama")


@pytest.fixture
def hybrid(tmp_path):
    return shutil.copytree(GOLDEN / "hybrid", tmp_path / "hybrid")


def commands(llama, hybrid, out):
    """Every command that replaces a folder by a model."""
    return {
        "compose": ("compose", "--teacher", llama, "--out", out, "--default-kind", "sliding_window", "--init", "paper"),
        "prune": ("prune", "-m", llama, "-o", out, "--layers", "1"),
        "quantize": ("quantize", "-m", llama, "-o", out, "--type", "f32"),
        "distill": ("distill", "--teacher", llama, "--student", hybrid, "--out", out),
        "align": ("align", "--teacher", llama, "--students", hybrid, "--out", out),
        "tune": ("tune", "--student", llama, "--out", out, "--train", GOLDEN / "README.md"),
    }


NAMES = list(commands("", "", ""))


@pytest.mark.parametrize("name", NAMES)
def test_an_input_is_not_replaced(llama, hybrid, name):
    target = hybrid if name in ("distill", "align") else llama
    before = content(target)
    refused(f"would delete the input {target}", *commands(llama, hybrid, target)[name])
    refused("would delete the input", *commands(llama, hybrid, target.parent)[name])
    assert content(target) == before
    link = target.parent / "link"
    link.symlink_to(target)
    refused("would delete the input", *commands(llama, hybrid, link)[name])
    assert content(target) == before


def test_a_model_that_a_plan_takes_layers_of_is_not_replaced(tmp_path, llama, hybrid):
    plan = tmp_path / "select.json"
    plan.write_text(json.dumps({"plan": [{"candidate": f"mla={hybrid}" if layer == 1 else "attention"} for layer in range(4)]}))
    before = content(hybrid)
    base = ("compose", "--teacher", llama, "--selection", plan)
    refused(f"would delete the input {hybrid}", *base, "--out", hybrid)
    assert content(hybrid) == before
    done = zebra(*base, "--out", tmp_path / "out")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", NAMES)
def test_other_files_are_not_deleted(tmp_path, llama, hybrid, name):
    out = tmp_path / "out"
    (out / "thesis").mkdir(parents=True)
    (out / "thesis" / "notes.txt").write_text("years of work")
    refused("found thesis in it", *commands(llama, hybrid, out)[name])
    assert (out / "thesis" / "notes.txt").read_text() == "years of work"
    if name not in ("align", "quantize"):  # align takes a list, quantize a file, too: other words
        refused("expected a folder, found no name", *commands(llama, hybrid, "")[name])
    blocked = tmp_path / "file"
    blocked.write_text("x")
    refused("expected a folder, found a file", *commands(llama, hybrid, blocked)[name])
    refused("is no folder", *commands(llama, hybrid, blocked / "below")[name])
    assert blocked.read_text() == "x"


def test_a_model_is_replaced_where_a_link_leads(tmp_path, llama):
    out = tmp_path / "disk"
    out.mkdir()
    link = tmp_path / "link"
    link.symlink_to(out)
    sizes = []
    for dtype in ("f32", "bf16"):
        done = zebra("quantize", "-m", llama, "-o", link, "--type", dtype)
        assert done.returncode == 0, done.stderr
        assert link.is_symlink()
        sizes.append((out / "model.safetensors").stat().st_size)
    assert sizes[1] < sizes[0]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["disk", "link", "llama"]


def test_measurements_keep_the_model(tmp_path, llama):
    model, text = tmp_path / "model.gguf", tmp_path / "text.jsonl"
    assert zebra("quantize", "-m", llama, "-o", model, "--type", "q8_0").returncode == 0
    text.write_text('{"input_ids": [5, 6, 7]}\n')
    before = model.read_bytes()
    for args in (("eval", "-m", model, "-o"), ("recall", "-m", model, "-o"), ("eval", "-m", model, "--text", text, "--perplexity-out"),
                 ("eval", "-m", llama, "--text", text, "--teacher", model, "--perplexity-out")):
        refused("would delete the input", *args, model)
    assert model.read_bytes() == before


def test_quantize_keeps_its_input(tmp_path, llama):
    file = tmp_path / "m.gguf"
    assert zebra("quantize", "-m", llama, "-o", file, "--type", "q8_0").returncode == 0
    before = file.read_bytes()
    refused("would delete the input", "quantize", "-m", file, "-o", file, "--type", "q4_0")
    assert file.read_bytes() == before


def test_a_pipe_is_written_to(tmp_path, llama):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = subprocess.Popen(["cat", pipe], stdout=subprocess.PIPE)
    done = zebra("select", "--teacher", llama, "--method", "uniform", "--count", "1", "-o", pipe)
    assert done.returncode == 0, done.stderr
    assert json.loads(reader.communicate(timeout=20)[0])["layers"] and pipe.is_fifo()


def test_places_of_results_are_asked_first(tmp_path, llama):
    text = tmp_path / "text.txt"
    text.write_text("a")
    for flag, path, said in [("--output", tmp_path, "expected a file, found a folder"),
                             ("--output", text / "x.json", "is no folder"),
                             ("--log-samples", text, "expected a folder, found a file"),
                             ("--cache", text / "c", "is no folder")]:
        refused(said, "eval", "-m", llama, "--tasks", "piqa", flag, path)
        refused(said, "recall", "-m", llama, "--tests", "associative", flag, path)
    refused("is no folder", "eval", "-m", llama, "--text", text, "--perplexity-out", text / "p.json")
    refused("is no folder", "select", "--teacher", llama, "--method", "uniform", "--count", "1", "-o", text / "s.json")
    for flag in ("--log-samples", "--cache"):
        refused("expected a file, and a folder elsewhere", "eval", "-m", llama, "--tasks", "piqa", "-o", tmp_path / "o", flag, tmp_path / "o")
    for said, flags in [("expected bytes", ("--budget", "60X")), ("expected shares", ("--compare", "4,x")), ("expected one of", ("--budget", "6M", "--cache-percent", "4"))]:
        refused(said, "select", "--teacher", llama, "--text", text, "-o", tmp_path / "s.json", *flags)
        assert {p.name for p in tmp_path.iterdir()} == {"llama", "text.txt"}
    refused("no-such-task", "eval", "-m", llama, "--tasks", "no-such-task", "--text", tmp_path / "missing.txt")
    refused("found \"piqqa\"", "eval", "-m", llama, "--tasks", "piqa", "--samples", '{"piqqa": [1]}')


def test_an_output_does_not_replace_another(tmp_path, llama, hybrid):
    text = tmp_path / "text.jsonl"
    text.write_text('{"input_ids": [5, 6, 7]}\n')
    (tmp_path / "link").symlink_to(tmp_path)
    out, same = tmp_path / "out", tmp_path / "link/./out"
    measure = ("eval", "-m", llama, "--text", text, "--tasks", "piqa")
    for other in (out, same, out / "below"):
        refused("it would replace the output", *measure, "-o", out, "--perplexity-out", other)
        refused("it would replace the output", "select", "--teacher", llama, "--cache-percent", "50", "--text", text, "-o", out, "--measures", other)
        refused("it would replace the output", "align", "--teacher", llama, "--students", f"{hybrid},{hybrid}", "--out", f"{out},{other}")
    assert not out.exists()
    assert "would replace" not in zebra(*measure, "-o", "/dev/null", "--perplexity-out", "/dev/null").stderr


def test_two_evaluations_in_one_folder_are_not_compared(tmp_path):
    line = {"doc_id": 0, "doc_hash": "x", "filter": "none", "metrics": ["acc"], "acc": 1.0}
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "samples_piqa.jsonl").write_text(json.dumps(line) + "\n")
        (tmp_path / f"{name}.json").write_text(json.dumps({"config": {"log_samples": str(tmp_path / "one")}}))
    refused("have this samples file", "eval", "--compare", tmp_path / "one.json", tmp_path / "two.json")
    refused("have this samples file", "eval", "--compare", tmp_path / "one", tmp_path / "one")
    out = tmp_path / "compared.json"
    assert zebra("eval", "--compare", tmp_path / "one", tmp_path / "two", "-o", out).returncode == 0
    assert json.loads(out.read_text())["tasks"]["piqa"]["acc"]["n"] == 1
    refused("would delete the input", "eval", "--compare", tmp_path / "one.json", tmp_path / "two.json", "-o", tmp_path / "one.json")


def test_a_comparison_that_fails_prints_no_table(tmp_path):
    for name in ("one", "two"):
        (tmp_path / f"{name}.json").write_text('{"results": {"piqa": {}}}')
    done = zebra("eval", "--compare", tmp_path / "one.json", tmp_path / "two.json")
    assert done.returncode == 4 and "--log-samples" in done.stderr and done.stdout == ""
