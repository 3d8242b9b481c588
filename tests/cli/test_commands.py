"""The program as a user meets it: help, exit statuses, one-line errors, and the commands around a model."""
import json
import math
import os
import pty
import re
import select
import shutil
import signal
import struct
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]
ZEBRA = (ROOT / os.environ.get("ZB_BUILD", "build/release")) / "src/cli/zebra"
GOLDEN = ROOT / "tests/golden"
SMOLLM2 = ROOT / "data/model/SmolLM2-135M-Instruct.Q4_1.gguf"
COMMANDS = ["pipeline", "compose", "align", "select", "distill", "eval", "report", "generate", "chat", "tokenize",
            "score", "inspect", "bench", "quantize", "recall", "tune", "prune"]
OK, USAGE, IO, FORMAT, CONFIG, MEMORY, UNSUPPORTED, INTERRUPTED = 0, 2, 3, 4, 5, 6, 7, 130

real_model = pytest.mark.skipif(not SMOLLM2.exists(), reason=f"{SMOLLM2} is fetched by ./run test")


def zebra(*args, text=None, **options):
    return subprocess.run([ZEBRA, *map(str, args)], input=text, capture_output=True, text=True, timeout=300,
                          cwd=ROOT, **options)


def ok(*args, **options):
    done = zebra(*args, **options)
    assert done.returncode == OK, done.stderr
    return done.stdout


def fails(status, message, *args, **options):
    """One error line that names the command; nothing on standard output."""
    done = zebra(*args, **options)
    assert done.returncode == status, (done.returncode, done.stderr)
    assert message in done.stderr, done.stderr
    errors = [line for line in done.stderr.splitlines() if "error:" in line]
    assert len(errors) == 1 and errors[0].startswith("zebra "), done.stderr
    assert done.stdout == ""
    return done


# ---- the program ----

def test_help_lists_commands_and_exit_statuses():
    text = ok("--help")
    assert text == ok("help") == ok("-h")
    for command in COMMANDS:
        assert f"\n  {command} " in text
    assert "--no-name" in text and "--name=VALUE" in text
    for status, meaning in [(0, "ok"), (2, "wrong usage"), (3, "cannot read or write"), (4, "broken or unknown file"),
                            (5, "wrong setting"), (6, "not enough memory"), (7, "not supported"), (130, "interrupted")]:
        assert f"{status:5}  {meaning}" in text


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_each_command(command):
    text = ok(command, "--help")
    assert text.startswith(f"usage: zebra {command} ")
    for option in ["--help", "--version", "--threads", "--quiet", "--verbose"]:
        assert option in text
    assert text == ok("help", command)
    assert text == ok(command, "--no-such-option", "-h")  # help wins
    assert max(len(line) for line in text.splitlines()) <= 160
    rows = [line for line in text.splitlines() if re.match("  (-.,|   ) --", line)]
    for pattern in ("--[a-z0-9-]+", "^  -."):  # each option and each letter once
        found = [m[0] for m in (re.search(pattern, line) for line in rows) if m]
        assert len(found) == len(set(found)), (command, found)


@pytest.mark.parametrize("command", COMMANDS)
def test_version_and_unknown_option_of_each_command(command):
    assert ok(command, "--version") == ok("--version")
    fails(USAGE, "unknown option", command, "--no-such-option")
    fails(USAGE, "--threads: expected a value", command, "--threads")
    fails(USAGE, "threads: expected an integer from 0 to", command, "--threads", "-3")
    if command in ("pipeline", "compose", "prune", "quantize", "report", "tokenize", "inspect"):
        fails(USAGE, 'unknown option "precision"', command, "--precision", "f32")  # it would change nothing
        return
    # training keeps exact products
    choices = "auto|f32|bf16" if command in ("align", "select", "distill", "tune") else "auto|f32|bf16|int8"
    fails(USAGE, f"expected one of {choices}, found", command, "--precision", "f8")


def test_unknown_command():
    assert 'did you mean "generate"?' in fails_plain("generat")
    assert 'did you mean "score"?' in fails_plain("help", "scare")
    assert "did you mean" not in fails_plain("xyzzyxyzzy")
    assert "expected a command" in fails_plain()


def fails_plain(*args):
    done = zebra(*args)
    assert done.returncode == USAGE and done.stdout == "" and done.stderr.count("\n") == 1
    return done.stderr


@pytest.mark.parametrize("command", ["generate", "chat", "tokenize", "score", "inspect", "bench", "quantize"])
def test_model_is_needed_and_must_exist(command):
    fails(USAGE, "expected a model", command, text="")
    model = ["no/such/model"] if command == "inspect" else ["-m", "no/such/model"]
    if command == "quantize":
        model.append("--dry-run")  # else an output is asked for first
    fails(IO, "no/such/model", command, *model, text="")


def test_one_of_two_inputs_is_not_passed_over():
    fails(USAGE, "--decode stands alone", "tokenize", "-m", GOLDEN / "llama", "--decode", "1,2", "-p", "text")
    fails(USAGE, "expected one model, found -m a and b", "inspect", "-m", "a", "b")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_is_an_error():
    with open("/dev/full", "w") as full:
        for args in [["inspect", GOLDEN / "llama"], ["inspect", GOLDEN / "llama", "--json"],
                     ["score", "-m", GOLDEN / "llama", "--ids", "1,2"], ["--help"], ["--version"], ["help", "eval"], ["eval", "--version"]]:
            done = subprocess.run([ZEBRA, *args], stdout=full, stderr=subprocess.PIPE, text=True, timeout=60)
            assert done.returncode == IO
            assert "cannot write to standard output" in done.stderr


# ---- broken models ----

@pytest.fixture
def broken(tmp_path):
    shutil.copytree(GOLDEN / "hybrid", tmp_path / "model")
    return tmp_path / "model"


@pytest.mark.parametrize("keep", [0, 5, 8, 100, 20000, -1])
def test_cut_safetensors(broken, keep):
    file = broken / "model.safetensors"
    file.write_bytes(file.read_bytes()[:keep])
    for args in [["inspect", broken], ["score", "-m", broken, "--ids", "1,2"], ["generate", "-m", broken, "--prompt-ids", "1"]]:
        fails(FORMAT, "model.safetensors", *args)


def test_broken_configuration(broken):
    config = broken / "config.json"
    good = json.loads(config.read_text())
    config.write_text("{")
    fails(FORMAT, "config.json:1:", "inspect", broken)
    config.write_text(json.dumps(good | {"hidden_size": "many"}))
    assert "hidden_size" in zebra("inspect", broken).stderr
    config.write_text(json.dumps(good | {"hidden_size": 64}))
    assert zebra("inspect", broken).returncode in (FORMAT, CONFIG)
    config.unlink()
    fails(IO, "config.json", "inspect", broken)


# ---- score ----

@pytest.mark.parametrize("name", ["llama", "qwen2-bias", "llama3-rope-untied", "hybrid", "mla-norm-yarn", "mamba2-repeat"])
def test_score_equals_the_golden_logits(name, tensors):
    golden = tensors(GOLDEN / name / "golden.safetensors")
    for ids, logits in zip(golden["input_ids"], golden["logits"].astype(np.float64)):
        logprob = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
        got = json.loads(ok("score", "-m", GOLDEN / name, "--ids", ",".join(map(str, ids)), "--precision", "f32"))
        want = [logprob[i, ids[i + 1]] for i in range(len(ids) - 1)]
        assert [t["id"] for t in got["tokens"]] == ids.tolist()
        assert got["tokens"][0]["logprob"] is None and got["tokens"][0]["text"] is None
        assert np.allclose([t["logprob"] for t in got["tokens"][1:]], want, rtol=0, atol=2e-4)
        assert np.allclose([t["best_logprob"] for t in got["tokens"][1:]], logprob[:-1].max(axis=1), rtol=0, atol=2e-4)
        assert got["predicted"] == len(want)
        assert math.isclose(got["sum"], sum(want), abs_tol=1e-2)
        assert math.isclose(got["perplexity"], math.exp(-sum(want) / len(want)), rel_tol=1e-3)


def test_score_of_one_token_and_of_bad_ids():
    one = json.loads(ok("score", "-m", GOLDEN / "llama", "--ids", "3"))
    assert one["predicted"] == 0 and one["sum"] == 0 and one["perplexity"] is None
    fails(CONFIG, "--ids: expected integers from 0 to 96", "score", "-m", GOLDEN / "llama", "--ids", "1,97")
    fails(CONFIG, 'found "x"', "score", "-m", GOLDEN / "llama", "--ids", "1,x")
    fails(USAGE, "found none", "score", "-m", GOLDEN / "llama", "--ids", ",")
    fails(USAGE, "found both", "score", "-m", GOLDEN / "llama", "--ids", "1", "-p", "text")
    fails(CONFIG, "expected a tokenizer", "score", "-m", GOLDEN / "llama", "-p", "text")
    fails(CONFIG, "at most 256 tokens", "score", "-m", GOLDEN / "llama", "--ids", ",".join(["1"] * 300))


def test_ids_need_no_tokenizer_that_can_be_read(tmp_path):
    model = tmp_path / "m"
    shutil.copytree(GOLDEN / "llama", model)
    (model / "tokenizer.json").write_text(json.dumps({"model": {"type": "Unigram", "vocab": [["a", 0.0]]}}))
    with_ids = json.loads(ok("score", "-m", model, "--ids", "5,6,7"))
    assert [t["text"] for t in with_ids["tokens"]] == [None] * 3
    assert ok("generate", "-m", model, "--prompt-ids", "5,6,7", "-n", 3, "--json")
    fails(UNSUPPORTED, 'tokenizer.json: type: expected "BPE", found "Unigram"', "score", "-m", model, "-p", "text")


def test_longer_context_than_one_chunk():
    ids = ",".join(str(i * 7 % 97) for i in range(1100))
    whole = json.loads(ok("score", "-m", GOLDEN / "hybrid", "--ids", ids, "-c", "2000"))
    part = json.loads(ok("score", "-m", GOLDEN / "hybrid", "--ids", ",".join(ids.split(",")[:500]), "-c", "2000"))
    assert np.allclose([t["logprob"] for t in whole["tokens"][1:500]], [t["logprob"] for t in part["tokens"][1:]], atol=2e-4)


# ---- generate ----

def test_generate_is_deterministic():
    base = ["generate", "-m", GOLDEN / "hybrid", "--prompt-ids", "5,6,7", "-n", "20", "--ignore-eos", "-q"]
    greedy = ok(*base, "--temp", "0")
    assert len(greedy.split()) == 20
    for extra in [[], ["-s", "9"], ["--threads", "1"], ["--top-k", "1", "--temp", "5"]]:
        assert ok(*base, *(extra if "--temp" in extra else ["--temp", "0", *extra])) == greedy
    sampled = ok(*base, "--temp", "1", "--seed", "1")
    assert sampled == ok(*base, "--temp", "1", "--seed", "1")
    assert sampled != ok(*base, "--temp", "1", "--seed", "2")


def test_generate_follows_the_scores():
    out = json.loads(ok("generate", "-m", GOLDEN / "llama", "--prompt-ids", "5,6,7", "-n", "12", "--temp", "0", "--ignore-eos", "--json"))
    assert out["text"] is None and out["finish"] == "length" and out["prompt_tokens"] == 3 and out["tokens"] == 12
    ids = [5, 6, 7] + out["ids"]
    scored = json.loads(ok("score", "-m", GOLDEN / "llama", "--ids", ",".join(map(str, ids))))["tokens"]
    for t in scored[3:]:
        assert t["best_logprob"] - t["logprob"] < 1e-4


def test_generate_to_the_end_of_the_context():
    out = json.loads(ok("generate", "-m", GOLDEN / "hybrid", "--prompt-ids", "5,6", "-n", "-1", "-c", "20", "--ignore-eos", "--json"))
    assert out["tokens"] == 19  # the last chosen token needs no room
    fails(CONFIG, "context holds 3", "generate", "-m", GOLDEN / "hybrid", "--prompt-ids", "5,6,7,8", "-c", "3")


def test_generate_refuses():
    base = ["generate", "-m", GOLDEN / "hybrid"]
    fails(CONFIG, "expected a tokenizer", *base, "-p", "text")
    fails(USAGE, "stands alone", *base, "--prompt-ids", "1", "-p", "text")
    fails(USAGE, "--system needs --chat", *base, "--system", "x", "-p", "text")
    fails(USAGE, "top_p: expected a number from 0 to 1", *base, "--top-p", "1.5")
    fails(USAGE, "did you mean \"top_k\"?", *base, "--topk", "3")
    fails(USAGE, "unexpected argument", *base, "text")


def many(tmp_path, rows, *args, model=GOLDEN / "hybrid"):
    path = tmp_path / "prompts.jsonl"
    path.write_text("\n".join(json.dumps(r) for r in rows) + "\n\n")
    return ["generate", "-m", model, "--prompts", path, *args]


def test_many_prompts_answer_as_one_at_a_time(tmp_path):
    rows = [{"ids": [(7 * i + j) % 90 for j in range(1 + 5 * i)], "id": f"row {i}"} for i in range(9)]
    args = ["-n", "15", "--ignore-eos", "--deterministic", "-q", "--seed", "3"]
    out = [json.loads(line) for line in ok(*many(tmp_path, rows, "--parallel", "4", *args)).splitlines()]
    assert [o["id"] for o in out] == [r["id"] for r in rows]
    assert all(o["tokens"] == len(o["ids"]) == 15 and o["finish"] == "length" for o in out)
    assert [o["prompt_tokens"] for o in out] == [len(r["ids"]) for r in rows]
    alone = [json.loads(line) for line in ok(*many(tmp_path, rows, "--parallel", "1", *args)).splitlines()]
    assert alone == out
    for i, row in enumerate(rows[:3]):  # the seed of row i is seed + i
        one = ok("generate", "-m", GOLDEN / "hybrid", "--prompt-ids", ",".join(map(str, row["ids"])), "-n", "15",
                 "--ignore-eos", "--deterministic", "-q", "--seed", 3 + i, "--json")
        assert json.loads(one)["ids"] == out[i]["ids"]


def test_many_prompts_refuse(tmp_path):
    fails(FORMAT, "prompts.jsonl:2: expected one of the keys prompt, messages and ids, found none",
          *many(tmp_path, [{"ids": [1]}, {"text": "x"}]))
    fails(FORMAT, "prompts.jsonl:1: expected one of the keys prompt, messages and ids, found several",
          *many(tmp_path, [{"ids": [1], "prompt": "x"}]))
    fails(FORMAT, "ids[1]: expected an id from 0 to", *many(tmp_path, [{"ids": [1, -4]}]))
    fails(CONFIG, "prompts.jsonl:1: prompt: expected 1 to", *many(tmp_path, [{"ids": []}]))
    fails(CONFIG, "expected a tokenizer", *many(tmp_path, [{"prompt": "x"}]))
    fails(FORMAT, "expected an object, found an array", *many(tmp_path, [[1]]))
    fails(FORMAT, "expected prompts, found none", *many(tmp_path, []))
    for other in (["-p", "x"], ["--system", "x"], ["--ids"]):
        fails(USAGE, "--prompts stands alone", *many(tmp_path, [{"ids": [1]}], *other))
    for row in ({"text": "x"}, {"ids": [1, -4]}, {"prompt": "x"}, {"ids": []}):
        assert zebra(*many(tmp_path, [row])).stderr.count("prompts.jsonl:1") == 1, row
    fails(IO, "no-such.jsonl", "generate", "-m", GOLDEN / "hybrid", "--prompts", tmp_path / "no-such.jsonl")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_interrupt_ends_generation(number):
    process = subprocess.Popen([ZEBRA, "generate", "-m", GOLDEN / "hybrid", "--prompt-ids", "1,2", "-n", "-1", "-c", "4000000", "--ignore-eos", "--threads", "1"],
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    for _ in range(3):
        assert process.stdout.readline().strip().isdigit()
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == INTERRUPTED and "interrupted after" in err


def catches_interrupts(process):
    """Whether it is the program already, not yet this one's copy, and has set up its signals."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    caught = int(re.search(r"SigCgt:\s*(\w+)", status)[1], 16)
    return Path(os.readlink(f"/proc/{process.pid}/exe")).name == ZEBRA.name and caught >> (signal.SIGINT - 1) & 1


def test_interrupt_ends_the_timing_of_kernels():
    process = subprocess.Popen([ZEBRA, "bench", "--kernels", "-o", "csv", "--threads", "1"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.time() + 60
    while not catches_interrupts(process) and time.time() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == INTERRUPTED and "interrupted" in err and not out


def test_a_reader_that_leaves_ends_generation():
    process = subprocess.Popen([ZEBRA, "generate", "-m", GOLDEN / "hybrid", "--prompt-ids", "1,2", "-n", "-1", "-c", "4000000", "--ignore-eos", "--threads", "1"],
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    process.stdout.readline()
    process.stdout.close()
    deadline = time.time() + 60
    while process.poll() is None and time.time() < deadline:
        time.sleep(0.05)
    assert process.returncode == IO and "cannot write" in process.stderr.read()
    process.stderr.close()


# ---- inspect and bench ----

def test_inspect_json():
    out = json.loads(ok("inspect", GOLDEN / "hybrid", "--json", "--tensors"))
    config = json.loads((GOLDEN / "hybrid/config.json").read_text())
    stored = json.loads((lambda raw: raw[8:8 + struct.unpack("<Q", raw[:8])[0]])((GOLDEN / "hybrid/model.safetensors").read_bytes()))
    shapes = {k: v["shape"] for k, v in stored.items() if k != "__metadata__"}
    assert {t["name"]: t["shape"] for t in out["tensors"]} == shapes
    assert out["parameters"] == sum(math.prod(s) for s in shapes.values())
    assert out["weight_bytes"] == 4 * out["parameters"] == out["weight_bytes_by_dtype"]["F32"]
    assert out["n_layers"] == config["num_hidden_layers"] == len(out["layers"]) == sum(out["layer_kinds"].values())
    assert out["kv_bytes_per_token"] == sum(l["cache_bytes_per_token"] for l in out["layers"])
    assert out["state_bytes"] == sum(l["state_bytes"] for l in out["layers"]) > 0
    full = 4 * len(out["layers"]) * 2 * config["num_key_value_heads"] * out["head_size"]
    assert math.isclose(out["kv_percent"], 100 * out["kv_bytes_per_token"] / full)
    assert {l["kind"] for l in out["layers"]} == {"mla", "mamba2"}
    assert "tensors" not in json.loads(ok("inspect", "-m", GOLDEN / "hybrid", "--json"))


def test_inspect_text():
    text = ok("inspect", GOLDEN / "llama", "--tensors")
    assert "kv_percent              100" in text
    assert text.count('kind "attention"') == json.loads((GOLDEN / "llama/config.json").read_text())["num_hidden_layers"]
    assert "model.embed_tokens.weight" in text


def test_bench():
    base = ["bench", "-m", GOLDEN / "hybrid", "-p", "16,32", "-n", "4", "-d", "0,8", "--pg", "8+4", "-b", "1,3", "-r", "2"]
    out = json.loads(ok(*base, "-o", "json"))
    tests = [(r["test"], r["batch"]) for r in out["results"]]
    assert tests == [(t + at, n) for at in ["", " @ d8"]
                     for t, n in [("pp16", 1), ("pp32", 1), ("tg4", 1), ("tg4", 3), ("pp8+tg4", 1), ("pp8+tg4", 3)]]
    assert all(r["tokens_per_second"] > 0 and r["deviation"] >= 0 and r["share"] > 0 and r["runs"] == 2 for r in out["results"])
    assert out["machine"]["read_bytes_per_second"] > 0 and out["machine"]["f32_flop_per_second"] > 0
    one, three = (r["bytes_per_token"] for r in out["results"][2:4])
    assert math.isclose(one["weights"], 3 * three["weights"], rel_tol=1e-7) and one["cache"] == three["cache"]
    assert "bytes_per_token" not in out["results"][0]
    deep = out["results"][8]["bytes_per_token"]
    assert math.isclose(deep["cache"], 5 * one["cache"], rel_tol=1e-7)  # 2 and 10 tokens of average context
    lines = ok(*base, "-o", "csv").splitlines()
    assert len(lines) == 13 and all(len(line.split(",")) == len(lines[0].split(",")) for line in lines)
    table = ok(*base, "--fill", "random").splitlines()
    assert table[0].startswith("machine: ") and table[0].endswith("contexts random")
    assert len({line.count("|") for line in table[2:]}) == 1 and len(table) == 16


def test_bench_layers():
    report = json.loads(ok("bench", "--layers", "-r", "1", "-t", "1", "-d", "100,300", "--cache-type", "q8_0", "-o", "json"))
    layers, attention = report["layers"], report["attention"]
    assert [x["name"] for x in layers] == ["SmolLM2-135M", "Llama-3.2-1B"]
    assert all(x[f"{form}_seconds"] > 0 for x in layers for form in ["chunked", "steps", "backward", "decode"])  # tests run beside others
    assert [x["depth"] for x in attention] == 4 * [100] + 4 * [300] and all(x["seconds"] > 0 for x in attention)
    assert attention[4]["bytes"] == 300 * 3 * 2 * 68 and attention[5]["bytes"] == 300 * (68 + 64)  # the rotary keys stay bf16
    assert attention[1]["flop"] == 2 * 9 * (76 + 44) * 100
    fails(USAGE, "--layers: takes no --model", "bench", "--layers", "-m", GOLDEN / "llama")


def test_bench_budget_and_threads():
    """The largest batch that fits, from the sizes that inspect gives."""
    about = json.loads(ok("inspect", GOLDEN / "hybrid", "--json"))
    out = json.loads(ok("bench", "-m", GOLDEN / "hybrid", "-p", "", "-n", "2", "-d", "8,30", "-r", "1", "--fill", "random",
                        "--budget", "1M", "--cache-type", "f32", "--thread-counts", "1,2", "-o", "json"))
    rows = out["results"]
    assert [r["threads"] for r in rows] == [1, 1, 2, 2] and out["fill"] == "random" and out["budget"] == "1M"
    for r in rows:
        sequence = about["state_bytes"] + about["kv_bytes_per_token"] * (r["depth"] + 2)
        room, header = 2**20 - out["size_mib"] * 2**20, 64 + 24 * 256  # the places of at most 256 layers
        assert 0.98 * room / (sequence + header) - 1 <= r["batch"] <= room / sequence
    assert rows[0]["batch"] > rows[1]["batch"]
    few = json.loads(ok("bench", "-m", GOLDEN / "hybrid", "-p", "", "-n", "2", "-r", "1", "--budget", "1M", "--batch-max", "3", "-o", "json"))
    assert few["results"][0]["batch"] == 3


def test_bench_refuses():
    base = ["bench", "-m", GOLDEN / "hybrid"]
    fails(USAGE, "found none", *base, "-p", "", "-n", "")
    fails(CONFIG, "at most 256", *base, "-p", "300", "-n", "")
    fails(CONFIG, "--batch: expected integers from 1", *base, "-b", "0")
    fails(USAGE, 'found "512"', *base, "--pg", "512")
    fails(USAGE, 'found "0+1"', *base, "--pg", "0+1")
    fails(USAGE, "--budget: expected bytes", *base, "--budget", "8X")
    fails(MEMORY, "do not fit into", *base, "-p", "", "-n", "4", "--budget", "64K")
    fails(USAGE, "--budget: chooses the batches", *base, "--budget", "8M", "-b", "1")
    fails(USAGE, "--kernels: takes no --model", *base, "--kernels")
    for flag, value in [("runs", "5"), ("batch", "1"), ("depth", "9"), ("precision", "f32"), ("cache-type", "f32")]:
        fails(USAGE, f"--kernels: takes no --{flag}", "bench", "--kernels", f"--{flag}", value)
    fails(USAGE, "--layers: takes no --tokens", "bench", "--layers", "--tokens", "5")
    fails(USAGE, "--train: takes no --runs", "bench", "--train", "distill", "--teacher", GOLDEN / "llama", "--student", GOLDEN / "hybrid", "-r", "5")


# ---- the real model: text ----

@real_model
def test_tokenize_round_trip(tmp_path):
    text = "Hello wörld 🙂\n  1234 <|im_end|>"
    out = json.loads(ok("tokenize", "-m", SMOLLM2, "-p", text, "--json"))
    ids = [t["id"] for t in out["tokens"]]
    assert out["n"] == len(ids) and 2 not in ids
    assert ok("tokenize", "-m", SMOLLM2, "--decode", ",".join(map(str, ids))) == text
    assert 2 in [t["id"] for t in json.loads(ok("tokenize", "-m", SMOLLM2, "-p", text, "--json", "-s"))["tokens"]]
    (tmp_path / "t.txt").write_text(text)
    lines = ok("tokenize", "-m", SMOLLM2, "-f", tmp_path / "t.txt").splitlines()
    assert [int(l.split("\t")[0]) for l in lines] == ids
    assert json.loads(lines[0].split("\t")[1]) == "Hello"
    assert ok("tokenize", "-m", SMOLLM2, text=text).splitlines() == lines
    fails(IO, "no-such-file", "tokenize", "-m", SMOLLM2, "-f", tmp_path / "no-such-file")
    fails(CONFIG, "--decode: expected integers from 0 to 49151", "tokenize", "-m", SMOLLM2, "--decode", "49152")
    fails(CONFIG, "expected a tokenizer", "tokenize", "-m", GOLDEN / "llama", "-p", "x")


@real_model
def test_generate_text_greedily():
    row = next(r for r in json.loads((GOLDEN / "smollm2/logits.json").read_text()) if r["prompt"] == "The capital of France is")
    base = ["generate", "-m", SMOLLM2, "-p", row["prompt"], "-n", "6", "--temp", "0", "--precision", "f32"]
    out = json.loads(ok(*base, "--json"))
    assert out["text"].startswith(" Paris.")
    assert ok(*base, "-q") == out["text"] + "\n"
    assert [int(i) for i in ok(*base, "--ids").split()] == out["ids"]
    timings = zebra(*base).stderr
    assert "prompt: 5 tokens (5 computed), " in timings and "generated: 6 tokens, " in timings


@real_model
def test_many_texts_and_conversations(tmp_path):
    rows = [{"prompt": "The capital of France is"}, {"messages": [{"role": "user", "content": "Say hello."}]}]
    text, chat = [json.loads(line) for line in
                  ok(*many(tmp_path, rows, "-n", "8", "--temp", "0", model=SMOLLM2)).splitlines()]
    assert "Paris" in text["text"] and chat["text"]
    assert chat["prompt_tokens"] > 8  # the template's own words


def test_eval_refuses_to_do_nothing(tmp_path):
    base = ["eval", "-m", GOLDEN / "llama"]
    fails(USAGE, "expected --tasks or --text, found neither", *base, "--tasks", "")
    fails(USAGE, "--teacher: expected --text", *base, "--teacher", GOLDEN / "llama")
    fails(USAGE, "--perplexity-out: expected --text", *base, "--perplexity-out", tmp_path / "out.json")
    fails(USAGE, "--output: expected --tasks", *base, "--tasks", "", "--text", tmp_path / "text.txt", "-o", tmp_path / "out.json")


def test_compare_measures_nothing(tmp_path):
    fails(USAGE, "--compare: leave -m", "eval", "--compare", tmp_path, tmp_path, "-m", GOLDEN / "llama")


def test_chat_needs_a_template(tmp_path):
    model = shutil.copytree(GOLDEN / "llama", tmp_path / "model")
    for file in (ROOT / "tests/unit/eval/tokenizer").iterdir():
        shutil.copy(file, model)
    settings = json.loads((model / "tokenizer_config.json").read_text())
    settings.pop("chat_template", None)
    (model / "tokenizer_config.json").write_text(json.dumps(settings))
    fails(CONFIG, "expected a chat template, found none: this model completes text (zebra generate)", "chat", "-m", model, text="")


def test_perplexity_of_little_text(tmp_path):
    text, out = tmp_path / "text.jsonl", tmp_path / "out.json"
    base = ["eval", "-m", GOLDEN / "llama", "-q", "--tasks", "", "--text", text, "--perplexity-out", out]
    text.write_text('{"input_ids": [5]}\n')
    fails(FORMAT, f"{text}: expected a document with two tokens or more", *base)
    text.write_text('{"input_ids": [5, 6, 7]}\n')  # one row: its mean has no error
    assert "+-" not in ok(*base)
    result = json.loads(out.read_text())
    assert result["predicted_tokens"] == 2 and result["nats_stderr"] is None
    text.write_text('{"input_ids": [5, 6, 7, 8, 9, 10]}\n')
    assert "+-" in ok(*base, "--sequence-length", "3") and json.loads(out.read_text())["nats_stderr"] > 0


def test_recall_refuses():
    base = ["recall", "-m", GOLDEN / "llama"]
    fails(CONFIG, "need a model with a tokenizer.json", *base)
    fails(USAGE, "expected options only", *base, "x")
    fails(USAGE, "samples: expected an integer from 1", *base, "--samples", "0")
    said = ok("recall", "--help")
    assert said.count("--precision") == 1 and "auto: bf16 where the CPU has it" in said  # not int8, as generation takes


@real_model
def test_recall_finds_a_needle_and_resumes(tmp_path):
    base = ["recall", "-m", SMOLLM2, "-q", "--tests", "niah_single_1,associative", "--lengths", "300", "--depths", "50", "-n", "1",
            "--pairs", "8", "--distances", "64", "--haystack", ROOT / "README.md", "--cache", tmp_path / "cache"]
    first = ok(*base, "-o", tmp_path / "a.json", "-s", tmp_path / "samples")
    result = json.loads((tmp_path / "a.json").read_text())
    assert result["results"]["niah_single_1"]["300,none"] == 1.0 and result["cells"][0]["depth"] == 50
    assert result["config"]["precision"] in ("f32", "bf16") and result["config"]["cache_type"] == "f32"
    assert result["associative"][0]["n"] == 4 and "|8|64|4|" in first
    sample = json.loads((tmp_path / "samples/samples_niah_single_1.jsonl").read_text())
    assert sample["outputs"][0] in sample["resp"] and sample["score"] == 1
    assert sample["prompt_tokens"] + 128 <= 300 and sample["input"].count(sample["outputs"][0]) == 1
    assert ok(*base) == first
    other = ok(*base, "--seed", "43", "--no-generate", "--tests", "niah_single_1", "--apply-chat-template")
    assert other.startswith("Answers of which each token") and "|8|64|" not in other


@real_model
def test_generate_with_the_chat_template():
    out = json.loads(ok("generate", "-m", SMOLLM2, "-p", "What is the capital of France?", "--chat", "--temp", "0",
                        "--precision", "f32", "--json"))
    assert "Paris" in out["text"] and out["finish"] == "end" and "<|im_end|>" not in out["text"]


@real_model
def test_chat_reuses_the_conversation():
    done = zebra("chat", "-m", SMOLLM2, "-n", "8", "--temp", "0", "-v", "--precision", "f32",
                 text="What is the capital of France?\n\nSay it again.\n/reset\nWhat is the capital of France?\n/exit\nnever read\n")
    assert done.returncode == OK, done.stderr
    answers = done.stdout.splitlines()
    turns = [line for line in done.stderr.splitlines() if "prompt:" in line]
    assert len(turns) == 3 and answers[0] == answers[-1] and "Paris" in answers[0]
    given, computed = map(int, re.search(r"prompt: (\d+) tokens \((\d+) computed\)", turns[1]).groups())
    assert computed < given / 2


@real_model
def test_chat_takes_bytes_that_are_no_text():
    done = subprocess.run([ZEBRA, "chat", "-m", SMOLLM2, "-n", "4", "--temp", "0"], input=b"caf\xe9?\nHello\n", capture_output=True, timeout=120)
    assert done.returncode == OK, done.stderr
    assert len(done.stdout.splitlines()) >= 2


class Terminal:
    """A program on a terminal of its own."""

    def __init__(self, *args):
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            os.execv(args[0], list(map(str, args)))
        self.seen = ""

    def wait_for(self, text, seconds=60):
        end = time.time() + seconds
        while text not in self.seen:
            assert time.time() < end, self.seen
            if select.select([self.fd], [], [], 0.2)[0]:
                self.seen += os.read(self.fd, 4096).decode(errors="replace")
        self.seen = self.seen.split(text, 1)[1]

    def say(self, line):
        os.write(self.fd, line.encode() + b"\n")

    def end(self):
        while True:  # what is not read keeps the program from ending
            try:
                if not os.read(self.fd, 4096):
                    break
            except OSError:
                break
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


def test_an_error_does_not_continue_the_line_of_progress(tmp_path):
    text = tmp_path / "text.jsonl"
    text.write_text("".join(json.dumps({"input_ids": [(7 * i + j * j) % 90 + 3 for j in range(100)]}) + "\n" for i in range(8000)))
    t = Terminal(ZEBRA, "eval", "-m", GOLDEN / "llama", "--tasks", "", "--text", text, "--sequence-length", "64", "--threads", "1")
    t.wait_for("tokens/s, left ")
    os.write(t.fd, b"\x03")
    t.wait_for("\nzebra eval: error: perplexity: interrupted", seconds=20)
    assert t.end() == 130


@real_model
def test_an_interrupted_answer_ends_its_line():
    t = Terminal(ZEBRA, "generate", "-m", SMOLLM2, "-p", "Once upon a time", "-n", "4000", "--ignore-eos", "--temp", "0", "--threads", "1")
    t.wait_for(" ")
    os.write(t.fd, b"\x03")
    t.wait_for("\nzebra generate: error: interrupted after", seconds=20)
    assert t.end() == 130


@real_model
def test_a_conversation_outlives_an_interrupt_and_a_full_context():
    t = Terminal(ZEBRA, "chat", "-m", SMOLLM2, "-n", "-1", "--temp", "0", "-c", "400", "--precision", "f32", "--threads", "1")
    t.wait_for("> ")
    t.say("Count from one to a thousand.")
    t.wait_for("\n")  # the echo
    t.wait_for(" ")  # some of the answer
    t.say("\x03")
    t.wait_for("> ")
    t.say("word " * 500)
    t.wait_for("the message is taken back")
    t.wait_for("> ")
    t.say("/reset")
    t.wait_for("> ")
    t.say("What is the capital of France?")
    t.wait_for("Paris")
    t.wait_for("> ")
    t.say("/exit")
    assert t.end() == OK


@real_model
def test_cut_gguf(tmp_path):
    raw = SMOLLM2.read_bytes()
    for keep in [3, 1000, 1000000, len(raw) - 1]:
        (tmp_path / "cut.gguf").write_bytes(raw[:keep])
        fails(FORMAT, "cut.gguf", "inspect", tmp_path / "cut.gguf")
