"""Training commands from outside: plans of memory before work, and the measurement of steps."""

import json
import os
import shutil
import subprocess

import pytest

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
ZEBRA = os.path.join(ROOT, os.environ.get("ZB_BUILD", "build/release"), "src", "cli", "zebra")
TEACHER = os.path.join(ROOT, "tests", "golden", "llama")
HYBRID = os.path.join(ROOT, "tests", "golden", "hybrid")


def run(*args):
    return subprocess.run([ZEBRA, *args], capture_output=True, text=True, timeout=120,
                          env={**os.environ, "OMP_NUM_THREADS": "2", "OMP_WAIT_POLICY": "passive"})


def configuration_only(source, target):
    os.mkdir(target)
    for name in os.listdir(source):
        if name.endswith(".json"):
            shutil.copy(os.path.join(source, name), target)
    return str(target)


def plan_of(text):
    rows = [line.rsplit(None, 2) for line in text.splitlines() if line.endswith(" MiB")]
    return {name.strip(): float(value) for name, value, _ in rows}


@pytest.mark.parametrize("command", ["distill", "align"])
def test_dry_run_needs_no_weights_and_writes_nothing(tmp_path, command):
    teacher = configuration_only(TEACHER, tmp_path / "t")
    student = configuration_only(HYBRID, tmp_path / "s")
    before = sorted(os.listdir(tmp_path))
    flag = "--student" if command == "distill" else "--students"
    r = run(command, "--teacher", teacher, flag, student, "--out", str(tmp_path / "o"), "--dry-run")
    assert r.returncode == 0, r.stderr
    assert "memory plan, 4 of 4 rows per pass" in r.stderr
    parts = plan_of(r.stderr)
    together = float(r.stderr.split("together")[1].split()[0])
    assert abs(sum(parts.values()) - together) < 0.1 * len(parts)
    assert sorted(os.listdir(tmp_path)) == before


@pytest.mark.parametrize("command", ["distill", "align"])
def test_refusal_before_work(tmp_path, command):
    flag = "--student" if command == "distill" else "--students"
    r = run(command, "--teacher", TEACHER, flag, HYBRID, "--out", str(tmp_path / "o"),
            "--memory-limit", "64M")
    assert r.returncode == 6, r.stderr
    assert "needs 0." in r.stderr and "the limit is 0.06 GiB" in r.stderr
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize("command", ["distill", "align"])
@pytest.mark.parametrize("extra,said", [(("--train", "no/such.jsonl"), "no/such.jsonl"), (("--valid", "no/such.jsonl"), "no/such.jsonl"),
                                        (("--min-document", "100000"), "100000")])
def test_unusable_text_leaves_nothing(tmp_path, text, command, extra, said):
    flag = "--student" if command == "distill" else "--students"
    out = tmp_path / "o"
    r = run(command, "--teacher", TEACHER, flag, HYBRID, "--out", str(out), "--train", text, "--valid", text, *extra)
    assert r.returncode != 0 and said in r.stderr, r.stderr
    assert not list(tmp_path.glob("o*"))


@pytest.mark.parametrize("stage,extra", [("distill", ()), ("distill", ("--recompute",)), ("align", ())])
def test_bench_of_steps(stage, extra):
    r = run("bench", "--train", stage, "--teacher", TEACHER, "--student", HYBRID, "--rows", "2",
            "--length", "64", "--steps", "2", "--precision", "f32", *extra)
    assert r.returncode == 0, r.stderr
    o = json.loads(r.stdout)
    assert o["train"] == stage and len(o["all_seconds"]) == 2
    assert o["seconds"] == min(o["all_seconds"])
    assert abs(o["tokens_per_second"] * o["seconds"] - 128) < 1e-3
    assert o["flop"] > 0 and o["student_peak_bytes"] > 0


def test_recompute_takes_less_memory():
    peak = [json.loads(run("bench", "--train", "distill", "--teacher", TEACHER, "--student", HYBRID,
                           "--length", "64", "--steps", "1", *extra).stdout)["student_peak_bytes"]
            for extra in ((), ("--recompute",))]
    assert peak[1] < peak[0]


def align(folder, text, name, *options):
    """What is measured on held-out text before and after 24 steps."""
    r = run("align", "--teacher", TEACHER, "--students", HYBRID, "--out", str(folder / name / "aligned"), "--train", text, "--valid", text,
            "--work", str(folder / name), "--tokens", "3072", "--sequence-length", "64", "--batch", "2", "--precision", "f32", *options)
    assert r.returncode == 0, r.stderr
    lines = [json.loads(line) for line in (folder / name / "log.jsonl").read_text().splitlines()]
    return [line for line in lines if "valid_loss" in line]


def test_layers_are_given_the_students_own_states(tmp_path, text):
    key = "ild_hidden.aligned"
    teacher = align(tmp_path, text, "teacher", "--lr", "0")[0][key]
    own = align(tmp_path, text, "own", "--lr", "0", "--student-inputs", "1")[0][key]
    # the first layer is given the same, the others inherit the errors before them
    assert own[0] == teacher[0]
    assert all(a > b for a, b in zip(own[1:], teacher[1:], strict=True))
    # from the middle on the held-out text is measured with the student's own states, too
    before, after = align(tmp_path, text, "half", "--lr", "0", "--student-inputs", "0.5")
    assert before[key] == teacher and after[key] == own


@pytest.mark.parametrize("weight", ["1", "0"])  # 0: mixers alone learn, their layers' outputs are only handed on
def test_layers_learn_from_the_students_own_states(tmp_path, text, weight):
    first, last = align(tmp_path, text, "own", "--lr", "1e-3", "--student-inputs", "1", "--hidden-weight", weight)
    assert last["valid_loss"] < first["valid_loss"]
