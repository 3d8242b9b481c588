"""Training commands from outside: plans of memory before work, and the measurement of steps."""

import gzip
import json
import math
import os
import shutil
import signal
import struct
import subprocess
import time
from pathlib import Path

import pytest

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
ZEBRA = os.path.join(ROOT, os.environ.get("ZB_BUILD", "build/release"), "src", "cli", "zebra")
TEACHER = os.path.join(ROOT, "tests", "golden", "llama")
HYBRID = os.path.join(ROOT, "tests", "golden", "hybrid")
UNTIED = os.path.join(ROOT, "tests", "golden", "llama3-rope-untied")


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


def test_a_large_text_takes_what_is_planned(tmp_path, text):
    held = bytearray(b"x" * (256 << 20))  # what this process holds is none of the program's peak
    large = tmp_path / "large.jsonl"
    line = json.dumps({"input_ids": [10 + i * 7 % 86 for i in range(1000)]}) + "\n"
    large.write_text(line * 8800)  # a little more than a power of two, where a doubled array is emptiest
    out = tmp_path / "out"
    p = run("distill", "--teacher", TEACHER, "--student", HYBRID, "--out", out, "--train", large, "--valid", text, "--tokens", "64", "--sequence-length", "64",
            "--batch", "1", "--valid-tokens", "0")
    assert p.returncode == 0, p.stderr
    plan = [line for line in p.stderr.splitlines() if line.split()[:1] == ["together"]][0].split()
    peak = [json.loads(l)["peak_rss_mib"] for l in (tmp_path / "out.train/log.jsonl").read_text().splitlines()]
    assert peak[-1] < float(plan[1]), p.stderr
    del held


def test_a_packed_text_is_planned_at_its_size(tmp_path):
    line = json.dumps({"input_ids": [3 + i * i % 94 for i in range(999)]}) + "\n"
    (tmp_path / "plain.jsonl").write_text(line * 2000)
    with gzip.open(tmp_path / "packed.jsonl.gz", "wt") as f:
        f.write(line * 2000)
    sizes = []
    for name in ("plain.jsonl", "packed.jsonl.gz"):
        r = run("distill", "--teacher", TEACHER, "--student", HYBRID, "--out", str(tmp_path / "o"), "--train", str(tmp_path / name), "--valid", "", "--dry-run")
        sizes.append(plan_of(r.stderr)["text"])
    assert sizes[0] > 5 and math.isclose(*sizes, rel_tol=0.1), sizes


def test_an_output_may_end_with_a_slash(tmp_path, text):
    size = ["--train", text, "--valid", text, "--tokens", "256", "--sequence-length", "64", "--batch", "2", "--valid-tokens", "128"]
    r = run("distill", "--teacher", TEACHER, "--student", TEACHER, "--out", f"{tmp_path}/one/", *size)
    assert r.returncode == 0, r.stderr
    assert {"one", "one.train"} <= set(os.listdir(tmp_path))
    r = run("align", "--teacher", TEACHER, "--students", f"{TEACHER},{TEACHER}", "--out", f"{tmp_path}/a/,{tmp_path}/b/", *size)
    assert r.returncode == 0, r.stderr
    first = json.loads((tmp_path / "a.train/log.jsonl").read_text().splitlines()[0])
    assert {"ild_hidden.a", "ild_hidden.b"} <= set(first)
    (tmp_path / "link").symlink_to(tmp_path)
    for work in ("two/work", "./two/work", "link/two", "none/../two/work"):
        r = run("distill", "--teacher", TEACHER, "--student", TEACHER, "--out", f"{tmp_path}/two", "--work", f"{tmp_path}/{work}", *size)
        assert r.returncode == 5 and "work: expected a folder outside of the output" in r.stderr and not (tmp_path / "two").exists(), (work, r.stderr)


def align(folder, text, name, *options):
    """What is measured on held-out text before and after 24 steps."""
    r = run("align", "--teacher", TEACHER, "--students", HYBRID, "--out", str(folder / name / "aligned"), "--train", text, "--valid", text,
            "--work", str(folder / name), "--tokens", "3072", "--sequence-length", "64", "--batch", "2", "--precision", "f32", *options)
    assert r.returncode == 0, r.stderr
    lines = [json.loads(line) for line in (folder / name / "log.jsonl").read_text().splitlines()]
    return [line for line in lines if "valid_loss" in line]


def test_students_of_one_name_are_told_apart(tmp_path, text):
    r = run("align", "--teacher", TEACHER, "--students", f"{HYBRID},{TEACHER},{TEACHER}", "--out", f"{tmp_path}/a/x,{tmp_path}/b/x,{tmp_path}/y",
            "--train", text, "--valid", text, "--work", str(tmp_path / "work"), "--tokens", "128", "--sequence-length", "64", "--batch", "2", "--lr", "0")
    assert r.returncode == 0, r.stderr
    lines = [json.loads(line) for line in (tmp_path / "work/log.jsonl").read_text().splitlines()]
    for line in lines:
        assert {key.split(".")[1] for key in line if key.startswith("ild_hidden.")} == {"a/x", "b/x", "y"}
    assert {key for key in lines[0] if key.startswith("relative_error")} == {f"relative_error.{name}" for name in ("a/x", "b/x", "y")}
    assert "step 0, a/x: validation" in r.stderr and "step 0, y: validation" in r.stderr


def test_each_student_is_told_its_own_loss(tmp_path, text):
    r = run("align", "--teacher", TEACHER, "--students", f"{HYBRID},{TEACHER}", "--out", f"{tmp_path}/a,{tmp_path}/b", "--train", text, "--valid", text,
            "--work", str(tmp_path / "work"), "--tokens", "128", "--sequence-length", "64", "--batch", "2", "--precision", "f32", "--lr", "0")
    assert r.returncode == 0, r.stderr
    said = {line.split()[3].strip(":"): float(line.split("validation loss ")[1].split(",")[0]) for line in r.stderr.splitlines() if line.startswith("align: step 0")}
    whole = json.loads((tmp_path / "work/log.jsonl").read_text().splitlines()[0])["valid_loss"]
    assert said["b"] == 0 and math.isclose(said["a"], whole, rel_tol=1e-3), (said, whole)  # b is the teacher itself


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


def test_an_alignment_killed_behind_its_last_step_ends_the_same(tmp_path, text):
    """Layers are judged by the student's own states in the last steps, also by a run that resumes behind them."""
    valid = tmp_path / "valid.jsonl"  # long enough for a validation to be met
    valid.write_text("".join(json.dumps({"input_ids": [3 + (d * 17 + i * i * 5) % 94 for i in range(200)]}) + "\n" for d in range(80)))
    options = ("--lr", "1e-3", "--student-inputs", "0.5", "--early-stop", "1", "--eval-every", "23", "--valid-tokens", "16000", "--valid", str(valid))
    whole = align(tmp_path, text, "whole", *options)
    folder = tmp_path / "killed"
    for _ in range(20):  # on a busy machine the run may be over before its last checkpoint is seen: once more
        shutil.rmtree(folder, ignore_errors=True)
        p = subprocess.Popen([ZEBRA, "align", "--teacher", TEACHER, "--students", HYBRID, "--out", str(folder / "aligned"), "--train", text,
                              "--work", str(folder), "--tokens", "3072", "--sequence-length", "64", "--batch", "2", "--precision", "f32", *options],
                             stderr=subprocess.DEVNULL, env={**os.environ, "OMP_NUM_THREADS": "2", "OMP_WAIT_POLICY": "passive"})
        while p.poll() is None and not (folder / "checkpoint-24").exists():
            time.sleep(0.002)
        p.kill()
        if p.wait() != 0 and not (folder / "aligned").exists():
            break
    assert p.returncode == -signal.SIGKILL and (folder / "checkpoint-24").exists() and not (folder / "aligned").exists()
    again = align(tmp_path, text, "killed", *options)
    key = "ild_hidden.aligned"
    assert [x["step"] for x in again] == [x["step"] for x in whole] and again[-1][key] == whole[-1][key]
    assert weights(folder / "aligned") == weights(tmp_path / "whole/aligned")


@pytest.mark.parametrize("stage,flag", [("distill", "--student"), ("align", "--students")])
def test_a_killed_run_of_every_other_kind_ends_with_the_same_bytes(tmp_path, text, stage, flag):
    """Windows, heads that see all, states beside windows and alone: MLA and Mamba2 are in tests/e2e."""
    student = str(tmp_path / "student")
    r = run("compose", "--teacher", TEACHER, "--out", student, "--windowed-deltanet-layers", "0", "--sliding-window-layers", "1", "--retrieval-heads", "1:0",
            "--windowed-mamba2-layers", "2", "--gated-deltanet-layers", "3", "--window", "7", "--sinks", "3")
    assert r.returncode == 0, r.stderr

    def command(name):
        return [ZEBRA, stage, "--teacher", TEACHER, flag, student, "--out", str(tmp_path / name), "--train", text, "--valid", text, "--tokens", "2560",
                "--sequence-length", "64", "--batch", "2", "--valid-tokens", "256", "--lr", "1e-3", "--precision", "f32", "--save-every", "2"]

    assert run(*command("whole")[1:]).returncode == 0
    for _ in range(20):  # on a busy machine the run may be over before its checkpoint is seen: once more
        p = subprocess.Popen(command("killed"), stderr=subprocess.DEVNULL, env={**os.environ, "OMP_NUM_THREADS": "2", "OMP_WAIT_POLICY": "passive"})
        while p.poll() is None and not any(x.suffix == "" for x in (tmp_path / "killed.train").glob("checkpoint-*")):
            time.sleep(0.002)
        p.kill()
        if p.wait() != 0:
            break
        shutil.rmtree(tmp_path / "killed")
        shutil.rmtree(tmp_path / "killed.train")
    assert p.returncode == -signal.SIGKILL and not (tmp_path / "killed").exists()
    again = run(*command("killed")[1:])
    assert again.returncode == 0 and "resuming at step" in again.stderr, again.stderr
    assert weights(tmp_path / "killed") == weights(tmp_path / "whole") != weights(tmp_path / "student")


# ---- runs that are lengthened ----

def distil(out, text, tokens, *args):
    r = run("distill", "--teacher", TEACHER, "--student", HYBRID, "--out", str(out), "--train", text, "--valid", text,
            "--tokens", str(tokens), "--sequence-length", "64", "--batch", "2", "--valid-tokens", "256", "--lr", "1e-3", "--precision", "f32",
            "--warmup", "2", "--save-every", "3", *args)
    assert r.returncode == 0, r.stderr
    with open(f"{out}.train/log.jsonl") as f:
        rates = [json.loads(line)["lr"] for line in f if '"lr"' in line]
    return r.stderr, rates


def weights(out):
    return (out / "model.safetensors").read_bytes()


def checkpoints(out):
    return sorted(name for name in os.listdir(f"{out}.train") if name.startswith("checkpoint-"))


def test_a_run_is_lengthened(tmp_path, text):
    one, whole = tmp_path / "one", tmp_path / "whole"
    said, rates = distil(one, text, 1280, "--decay", "0.4")  # 10 steps, of which 4 fall
    assert "resuming" not in said and rates[:6] == [5e-4] + 5 * [1e-3] and rates[6:] == sorted(rates[6:], reverse=True)
    assert rates[6] == 1e-3 and 0 < rates[9] < 2e-4 and checkpoints(one) == ["checkpoint-6"]
    short = weights(one)
    said, rates = distil(one, text, 2560, "--decay", "0.25")
    assert "resuming at step 6 of 20" in said and len(rates) == 20 and rates[14] == 1e-3 > rates[16]
    distil(whole, text, 2560, "--decay", "0.25")
    assert weights(one) == weights(whole) != short  # as if it had never been shorter
    assert checkpoints(one) == checkpoints(whole) == ["checkpoint-15"]
    # what belongs to another run is not taken up: a shorter one, another rate; nor is it lost before there is something newer
    said, rates = distil(one, text, 1280, "--decay", "0.4")
    assert "made with other settings" in said and weights(one) == short and checkpoints(one) == ["checkpoint-6"]
    said, _ = distil(one, text, 2560, "--decay", "0.25", "--beta2", "0.9")
    assert "made with other settings" in said


def tensors(folder):
    raw = weights(folder)
    n = struct.unpack("<Q", raw[:8])[0]
    header = json.loads(raw[8:8 + n])
    header.pop("__metadata__", None)
    return {name: (t["dtype"], raw[8 + n + t["data_offsets"][0]:8 + n + t["data_offsets"][1]]) for name, t in header.items()}


def test_a_frozen_part_stays_as_it_is_stored(tmp_path, text):
    narrow, frozen = tmp_path / "narrow", ("--other-rate", "0", "--untie", "--dtype", "bf16")
    distil(narrow, text, 0, "--dtype", "bf16")
    student = ("--student", str(narrow), *frozen)
    said, _ = distil(tmp_path / "whole", text, 1024, *student, "--decay", "0")
    plan = plan_of(said)
    assert 0 < plan["student's frozen weights as stored"] < plan["student's weights, f32"]
    before, after = tensors(narrow), tensors(tmp_path / "whole")
    assert before.keys() == after.keys()  # a frozen head stays tied
    for name, value in before.items():
        in_mixer = any(part in name for part in (".mla.", ".mamba.", ".self_attn."))
        assert (value == after[name]) is not in_mixer, name
    distil(tmp_path / "long", text, 512, *student, "--decay", "0")
    said, _ = distil(tmp_path / "long", text, 1024, *student, "--decay", "0")
    assert "resuming" in said
    assert weights(tmp_path / "long") == weights(tmp_path / "whole")


def best_of(out):
    # the step of the model in <stage>/best, and the step of the lowest validation behind the first in the log
    with open(f"{out}.train/log.jsonl") as f:
        kl = {x["step"]: x["valid_kl"] for x in map(json.loads, f) if x.get("valid_kl") is not None}
    path = Path(f"{out}.train/best/config.json")
    return json.loads(path.read_text())["zebra"]["step"] if path.exists() else None, min(kl, key=kl.get), kl


def test_the_best_model_is_of_the_run_it_lies_with(tmp_path, text):
    one, whole = tmp_path / "one", tmp_path / "whole"
    args = "--keep-best", "--eval-every", "3"
    distil(one, text, 1280, "--decay", "0.4", *args)
    kept, best, kl = best_of(one)
    assert kept == best > 6, kl  # of the part that a longer run does not have
    state = Path(f"{one}.train/checkpoint-6/trainer_state.json")
    state.write_text(state.read_text().replace('"best": ', '"was": ').replace("{", '{"best": {"step": 6, "value": 1e-9}, ', 1))
    distil(one, text, 2560, "--decay", "0.25", *args)  # finds nothing better than what the state claims
    distil(whole, text, 2560, "--decay", "0.25", *args)
    kept, best, kl = best_of(one)
    assert kept == best == best_of(whole)[0], kl
    assert weights(Path(f"{one}.train/best")) == weights(Path(f"{whole}.train/best"))


def test_shares_of_a_run_are_not_lengthened(tmp_path, text):
    one = tmp_path / "one"
    distil(one, text, 1280, "--decay", "0.4", "--short-share", "0.5", "--short-length", "16")
    assert checkpoints(one) == []
    assert "resuming" not in distil(one, text, 2560, "--decay", "0.4", "--short-share", "0.5", "--short-length", "16")[0]


# ---- ids that the model does not have ----

@pytest.mark.parametrize("command", ["distill", "align", "tune"])
@pytest.mark.parametrize("which", ["--train", "--valid"])
def test_ids_beyond_the_vocabulary_are_found_before_the_first_step(tmp_path, lines, command, which):
    path = tmp_path / "beyond.jsonl"
    with open(lines) as f:
        rows = [json.loads(line) for line in f]
    rows[2]["input_ids"][-1] = rows[2]["completion"][-1] = 97
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    r = train(command, UNTIED, tmp_path / "o", lines, which, str(path))
    assert r.returncode == 4 and "beyond.jsonl:3: expected token ids below 97" in r.stderr and "found 97" in r.stderr, r.stderr
    assert not list(tmp_path.glob("o*"))


@pytest.mark.parametrize("command", [
    ("prune", "-m", TEACHER, "-o", "OUT", "--layers", "2", "--text", "TEXT", "--tokens", "256", "--length", "32"),
    ("compose", "--teacher", TEACHER, "-o", "OUT", "--init", "calibrated", "--kv-rank", "12", "--calibration", "TEXT",
     "--calibration-tokens", "256", "--calibration-length", "32"),
    ("select", "--teacher", TEACHER, "-o", "OUT", "--method", "heads", "--text", "TEXT", "--tokens", "256", "--count", "1"),
    ("select", "--teacher", TEACHER, "-o", "OUT", "--cache-percent", "50", "--text", "TEXT", "--tokens", "256"),
    ("eval", "-m", TEACHER, "--text", "TEXT")])
def test_ids_beyond_the_vocabulary_in_other_texts(tmp_path, command):
    path = tmp_path / "beyond.jsonl"
    path.write_text("".join(json.dumps({"input_ids": [5, 97 if i == 1 else 6] * 40}) + "\n" for i in range(40)))
    r = run(*[{"OUT": str(tmp_path / "o"), "TEXT": str(path)}.get(a, a) for a in command])
    assert r.returncode == 4 and "beyond.jsonl:2: expected token ids below 97" in r.stderr, r.stderr
    assert not list(tmp_path.glob("o*"))


# ---- numbers that are not finite ----

def broken(source, target, name, at, value=math.nan):
    """A copy of a model with one weight that is not a number, or this one."""
    shutil.copytree(source, target)
    path = target / "model.safetensors"
    raw = bytearray(path.read_bytes())
    n = struct.unpack("<Q", raw[:8])[0]
    struct.pack_into("<f", raw, 8 + n + json.loads(raw[8:8 + n])[name]["data_offsets"][0] + 4 * at, value)
    path.write_bytes(raw)
    return str(target)


def train(command, student, out, text, *args):
    """A command of training on a few tokens; `tune` learns the texts as they are."""
    if command == "tune":
        return run("tune", "--method", "sft", "--student", student, "--out", str(out), "--train", text, "--valid", text, "--batch", "2",
                   "--valid-examples", "4", *args)
    return run(command, "--teacher", UNTIED, "--student" if command == "distill" else "--students", student, "--out", str(out), "--train", text,
               "--valid", text, "--tokens", "256", "--sequence-length", "64", "--batch", "2", *args)


@pytest.fixture
def lines(tmp_path):
    """Texts of ids for every command."""
    path = tmp_path / "lines.jsonl"
    ids = [[3 + (d * 31 + i * i * 7) % 80 for i in range(20 + 2 * d)] for d in range(20)]
    path.write_text("".join(json.dumps({"input_ids": x, "prompt": x[:1], "completion": x[1:]}) + "\n" for x in ids))
    return str(path)


@pytest.mark.parametrize("command", ["distill", "align", "tune"])
@pytest.mark.parametrize("arg,said", [(("--beta1", "1"), "beta1: expected less than 1, found 1"),
                                      (("--beta2", "1"), "beta2: expected less than 1, found 1"), (("--eps", "0"), "eps: expected more than 0, found 0")])
def test_rates_that_divide_by_zero_are_refused(tmp_path, lines, command, arg, said):
    r = train(command, UNTIED, tmp_path / "o", lines, *arg)
    assert r.returncode == 5 and said in r.stderr, r.stderr
    assert not list(tmp_path.glob("o*"))


@pytest.mark.parametrize("command", ["distill", "align", "tune"])
@pytest.mark.parametrize("extra,said", [((), "the held-out loss is not finite at step 0 of"),
                                        (("--valid-tokens", "0"), "the loss is not finite at step 1 of")])
def test_a_loss_that_is_not_finite_ends_the_run(tmp_path, lines, command, extra, said):
    student = broken(UNTIED, tmp_path / "s", "model.layers.1.mlp.up_proj.weight", 5)
    if command == "tune" and extra:
        r = run("tune", "--method", "sft", "--student", student, "--out", str(tmp_path / "o"), "--train", lines, "--batch", "2")
    else:
        r = train(command, student, tmp_path / "o", lines, *extra)
    assert r.returncode == 5 and f"{command}: {said}" in r.stderr and "lower lr" in r.stderr, r.stderr
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize("command", ["distill", "tune"])
def test_a_perplexity_beyond_all_numbers_is_null(tmp_path, lines, command):
    student = broken(UNTIED, tmp_path / "s", "model.norm.weight", 7, 1e6)
    r = train(command, student, tmp_path / "o", lines, "--lr", "1e-4")
    assert r.returncode == 0, r.stderr
    first = json.loads((tmp_path / "o.train/log.jsonl").read_text().splitlines()[0])
    assert first["step"] == 0 and first["valid_perplexity"] is None and first["valid_kl" if command == "distill" else "valid_loss"] > 1000


@pytest.mark.parametrize("command", ["distill", "tune"])
def test_weights_that_are_not_finite_are_not_saved(tmp_path, lines, command):
    """The row of an id that never occurs: no loss and no gradient tells of it."""
    student = broken(UNTIED, tmp_path / "s", "model.embed_tokens.weight", 96 * 48 + 7)
    r = train(command, student, tmp_path / "o", lines)
    assert r.returncode == 5 and f"{command}: model.embed_tokens.weight is not finite" in r.stderr, r.stderr
    assert not (tmp_path / "o").exists() and not list(tmp_path.glob("o.train/checkpoint-*"))


def test_aligned_weights_that_are_not_finite_are_not_saved(tmp_path, lines):
    student = broken(UNTIED, tmp_path / "s", "model.norm.weight", 7)  # behind the layers: no layer's loss tells of it
    r = train("align", student, tmp_path / "o", lines)
    assert r.returncode == 5 and "align: model.norm.weight is not finite" in r.stderr, r.stderr
    assert not (tmp_path / "o").exists()


# ---- tuning to answers ----

@pytest.fixture
def pairs(tmp_path):
    """Prompts whose chosen answer repeats their last id and whose rejected one does not."""
    path = tmp_path / "pairs.jsonl"
    with path.open("w") as f:
        for i in range(24):
            prompt = [3 + (7 * i + k * k) % 90 for k in range(4 + i % 5)]
            last = prompt[-1]
            f.write(json.dumps({"prompt": prompt, "chosen": [last] * (2 + i % 3), "rejected": [3 + (last + 5) % 90] * 3}) + "\n")
    return str(path)


def tune(out, *args, status=0):
    r = run("tune", "--student", HYBRID, "--out", str(out), "--precision", "f32", *args)
    assert r.returncode == status, r.stderr
    return r


def log_of(out):
    with open(f"{out}.train/log.jsonl") as f:
        lines = [json.loads(line) for line in f]
    return [x for x in lines if "loss" in x], [x for x in lines if "valid_loss" in x]


def test_preferences_are_learnt(tmp_path, pairs):
    out = tmp_path / "o"
    tune(out, "--train", pairs, "--valid", pairs, "--epochs", "4", "--batch", "5", "--lr", "1e-3", "--beta", "0.1")
    steps, valid = log_of(out)
    assert abs(valid[0]["valid_loss"] - math.log(2)) < 1e-6 and abs(valid[0]["valid_margin"]) < 1e-6  # the student is its reference
    assert abs(steps[0]["loss"] - math.log(2)) < 1e-6
    assert valid[-1]["valid_loss"] < 0.5 and valid[-1]["valid_accuracy"] == 1.0 and valid[-1]["valid_margin"] > 0.3
    assert [x["examples"] for x in steps] == [5 * (i + 1) for i in range(19)] + [96]  # 4 epochs of 24
    assert steps[-1]["margin"] > steps[1]["margin"] and steps[-1]["logp_chosen"] > steps[0]["logp_chosen"]
    # against the model it started from, the tuned one stands where its own validation says
    again = tmp_path / "again"
    r = run("tune", "--student", str(out), "--reference", HYBRID, "--out", str(again), "--train", pairs, "--valid", pairs,
            "--epochs", "0.01", "--lr", "1e-12", "--beta", "0.1", "--precision", "f32")
    assert r.returncode == 0, r.stderr
    assert abs(log_of(again)[1][0]["valid_loss"] - valid[-1]["valid_loss"]) < 1e-5


def test_passes_of_a_step_add_up(tmp_path, pairs):
    for method in ["dpo", "sft"]:
        losses = []
        for piece in ["0", "1", "3"]:
            train = pairs
            if method == "sft":
                train = str(tmp_path / "answers.jsonl")
                with open(pairs) as f, open(train, "w") as g:
                    for line in f:
                        row = json.loads(line)
                        g.write(json.dumps({"prompt": row["prompt"], "completion": row["chosen"]}) + "\n")
            out = tmp_path / f"{method}-{piece}"
            tune(out, "--method", method, "--train", train, "--batch", "6", "--micro-batch", piece, "--lr", "1e-3")
            losses.append([x["loss"] for x in log_of(out)[0]])
        assert len(losses[0]) == 4
        for other in losses[1:]:
            assert all(abs(a - b) < 1e-4 * abs(a) for a, b in zip(losses[0], other))


def test_answers_are_learnt_and_prompts_are_not(tmp_path):
    rows = [{"prompt": [3 + (11 * i + k) % 90 for k in range(6)], "completion": [50, 51, 52]} for i in range(16)]
    files = {}
    for name, key in [("answers", "completion"), ("prompts", "prompt")]:
        files[name] = str(tmp_path / f"{name}.jsonl")
        with open(files[name], "w") as f:
            for row in rows:
                f.write(json.dumps(row if key == "completion" else {"prompt": [3], "completion": row["prompt"]}) + "\n")
    out = tmp_path / "o"
    tune(out, "--method", "sft", "--train", files["answers"], "--valid", files["answers"], "--epochs", "20", "--batch", "4",
         "--lr", "2e-3", "--recompute")
    steps, valid = log_of(out)
    assert steps[0]["learnt"] == 12
    assert valid[-1]["valid_loss"] < 0.2 * valid[0]["valid_loss"]
    assert abs(valid[-1]["valid_perplexity"] - math.exp(valid[-1]["valid_loss"])) < 1e-6
    before, after = (prompt_loss(tmp_path, model, files["prompts"]) for model in (HYBRID, str(out)))
    assert after > 0.9 * before  # what stood before the answers was not learnt


def prompt_loss(tmp_path, model, path):
    out = tmp_path / f"loss-{os.path.basename(model)}"
    r = run("tune", "--student", model, "--method", "sft", "--train", path, "--valid", path, "--epochs", "0.01",
            "--lr", "1e-12", "--out", str(out))
    assert r.returncode == 0, r.stderr
    return log_of(out)[1][0]["valid_loss"]


def test_tune_refuses(tmp_path, pairs):
    before = sorted(os.listdir(tmp_path))
    out = tmp_path / "o"
    for args, said in [(("--train", pairs, "--length", "64", "--prompt-length", "64"), "prompt_length: expected less than length 64"),
                       (("--train", pairs, "--method", "sft", "--reference", HYBRID), "reference: method sft"),
                       (("--train", pairs, "--method", "sft"), "pairs.jsonl:1: expected an object with text, messages"),
                       (("--train", pairs, "--keep-best"), "keep_best: expected held-out examples"),
                       (("--train", "no/such.jsonl"), "no/such.jsonl"), ((), "train and out are needed"),
                       (("--train", pairs, "--memory-limit", "1M"), ": shorten length, or raise memory_limit")]:
        r = run("tune", "--student", HYBRID, "--out", str(out), *args)
        assert r.returncode != 0 and said in r.stderr, r.stderr
    assert sorted(os.listdir(tmp_path)) == before
    r = run("tune", "--student", HYBRID, "--dry-run")
    assert r.returncode == 0 and "reference's weights as stored" in r.stderr, r.stderr
