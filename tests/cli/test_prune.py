"""Pruning from outside: what does nothing is found and taken out without a trace, repair helps, sizes are checked."""

import json
import os
import shutil
import struct
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ZEBRA = (ROOT / os.environ.get("ZB_BUILD", "build/release")) / "src/cli/zebra"
TEACHER = ROOT / "tests/golden/llama"  # 4 layers, 6 heads of 2 groups, 80 neurons, 48 channels, heads of 16
L, H, G, F, D, DH = 4, 6, 2, 80, 48, 16


def run(*args, status=0):
    done = subprocess.run([ZEBRA, *map(str, args)], capture_output=True, text=True, timeout=120, cwd=ROOT,
                          env={**os.environ, "OMP_NUM_THREADS": "2", "OMP_WAIT_POLICY": "passive"})
    assert done.returncode == status, done.stderr
    return done


def prune(out, text, *args, model=TEACHER):
    return json.loads(run("prune", "-m", model, "-o", out, "--text", text, "--tokens", "1024", "--length", "64", "--depth-tokens", "256",
                          "--json", *args).stdout)


class Weights:
    """A safetensors file of F32 tensors whose rows and columns may be set."""

    def __init__(self, folder):
        self.path = folder / "model.safetensors"
        raw = self.path.read_bytes()
        n = struct.unpack("<Q", raw[:8])[0]
        self.header = json.loads(raw[8:8 + n])
        self.data = bytearray(raw[8 + n:])
        self.head = raw[:8 + n]

    def shape(self, name):
        return self.header[name]["shape"]

    def scale(self, name, factor, rows=None, cols=None):
        at, (height, width) = self.header[name]["data_offsets"][0], self.shape(name)
        for r in range(height) if rows is None else rows:
            for c in range(width) if cols is None else cols:
                here = at + 4 * (r * width + c)
                struct.pack_into("<f", self.data, here, factor * struct.unpack_from("<f", self.data, here)[0])

    def clear(self, name, rows=None, cols=None):
        self.scale(name, 0.0, rows, cols)

    def copy_rows(self, name, source, target, n):
        at, width = self.header[name]["data_offsets"][0], 4 * self.shape(name)[1]
        self.data[at + target * width:at + (target + n) * width] = self.data[at + source * width:at + (source + n) * width]

    def save(self):
        self.path.write_bytes(self.head + self.data)


@pytest.fixture
def model(tmp_path):
    return Path(shutil.copytree(TEACHER, tmp_path / "model"))


def logprobs(model):
    ids = ",".join(str(3 + (7 * i * i + 5 * i) % 94) for i in range(60))
    return [t["logprob"] for t in json.loads(run("score", "-m", model, "--ids", ids, "--precision", "f32").stdout)["tokens"][1:]]


def same(a, b, within):
    worst = max(abs(p - q) for p, q in zip(logprobs(a), logprobs(b), strict=True))
    assert worst < within, worst


def test_dead_neurons_go(tmp_path, text, model):
    w, dead = Weights(model), {l: [(7 * i + 3 * l) % F for i in range(F // 2)] for l in range(L)}
    for l, rows in dead.items():
        assert len(set(rows)) == F // 2
        w.clear(f"model.layers.{l}.mlp.gate_proj.weight", rows=rows)
    w.save()
    report = prune(tmp_path / "out", text, "--mlp", F // 2, "--no-repair", model=model)
    assert report["mlp"] == F // 2 and report["parameters_before"] - report["parameters"] == 3 * L * D * F // 2
    same(model, tmp_path / "out", 1e-5)
    shapes = Weights(tmp_path / "out")
    assert shapes.shape("model.layers.1.mlp.up_proj.weight") == [F // 2, D]
    prune(tmp_path / "repaired", text, "--mlp", F // 2, model=model)  # nothing to repair
    same(model, tmp_path / "repaired", 1e-4)


@pytest.mark.parametrize("heads", [3, 2])
def test_dead_groups_go(tmp_path, text, model, heads):
    w = Weights(model)
    for l in range(L):
        group = l % G
        w.clear(f"model.layers.{l}.self_attn.v_proj.weight", rows=range(group * DH, (group + 1) * DH))
    w.save()
    report = prune(tmp_path / "out", text, "--kv-heads", 1, "--heads", heads, model=model)
    assert (report["kv_heads"], report["heads"]) == (1, heads) and report["cache_percent"] == 50
    assert Weights(tmp_path / "out").shape("model.layers.0.self_attn.o_proj.weight") == [D, heads * DH]
    if heads == 3:
        same(model, tmp_path / "out", 1e-4)


@pytest.mark.parametrize("depth", ["divergence", "influence"])
def test_idle_layers_go(tmp_path, text, model, depth):
    w = Weights(model)
    for l in (0, 2):
        w.clear(f"model.layers.{l}.self_attn.o_proj.weight")
        w.clear(f"model.layers.{l}.mlp.down_proj.weight")
    w.save()
    report = prune(tmp_path / "out", text, "--layers", 2, "--depth", depth, model=model)
    assert report["layers"] == [1, 3]
    same(model, tmp_path / "out", 1e-5)


def test_silent_channels_go(tmp_path, text, model):
    w, silent = Weights(model), range(5, 5 + D // 6)
    w.clear("model.embed_tokens.weight", cols=silent)
    for l in range(L):
        w.clear(f"model.layers.{l}.self_attn.o_proj.weight", rows=silent)
        w.clear(f"model.layers.{l}.mlp.down_proj.weight", rows=silent)
    w.save()
    report = prune(tmp_path / "out", text, "--hidden", D - len(silent), model=model)
    assert report["hidden"] == D - len(silent)
    same(model, tmp_path / "out", 2e-4)  # norms are means over fewer channels: their weights make up for it


def divergence(folder, model, text, teacher=TEACHER):
    out = folder / f"kl-{model.name}.json"
    run("eval", "-m", model, "--teacher", teacher, "--tasks", "", "--text", text, "--perplexity-out", out, "--sequence-length", "64",
        "--precision", "f32")
    return json.loads(out.read_text())["kl_to_teacher"]


def test_neurons_that_say_the_same_are_made_up_for(tmp_path, text, model):
    """Half of the neurons whisper what the others say and are listened to the more: their scores are low, and what they said is not lost."""
    w, copies = Weights(model), range(F // 2, F)
    for l in range(L):
        for name in ("gate", "up"):
            w.copy_rows(f"model.layers.{l}.mlp.{name}_proj.weight", 0, F // 2, F // 2)
        w.scale(f"model.layers.{l}.mlp.up_proj.weight", 1e-3, rows=copies)
        w.scale(f"model.layers.{l}.mlp.down_proj.weight", 1e3, cols=copies)
    w.save()
    prune(tmp_path / "plain", text, "--mlp", F // 2, "--no-repair", model=model)
    prune(tmp_path / "repaired", text, "--mlp", F // 2, model=model)
    plain, repaired = (divergence(tmp_path, tmp_path / name, text, model) for name in ("plain", "repaired"))
    assert repaired < 0.02 * plain, (repaired, plain)


@pytest.mark.parametrize("sizes", [("--heads", 4), ("--kv-heads", 1), ("--mlp", 60, "--heads", 4)])
def test_repair_helps(tmp_path, text, sizes):
    held = tmp_path / "held.jsonl"  # other documents than the repair has seen
    held.write_text("".join(json.dumps({"input_ids": [3 + (d * 17 + i * i * 5) % 94 for i in range(64)]}) + "\n" for d in range(20)))
    prune(tmp_path / "plain", text, *sizes, "--no-repair")
    report = prune(tmp_path / "repaired", text, *sizes)
    plain, repaired = (divergence(tmp_path, tmp_path / name, held) for name in ("plain", "repaired"))
    assert 0 < repaired < 0.9 * plain, (repaired, plain)
    assert 0 < report["kl_repaired"] < 0.9 * report["kl_plain"]


def test_a_repair_that_harms_is_not_kept(tmp_path, text):
    few = ("--heads", 4, "--tokens", "64", "--length", "64", "--ridge", "1e-6")  # fits noise
    report = prune(tmp_path / "out", text, *few)
    prune(tmp_path / "plain", text, *few, "--no-repair")
    assert report["kl_repaired"] > report["kl_plain"] > 0
    assert (tmp_path / "out/model.safetensors").read_bytes() == (tmp_path / "plain/model.safetensors").read_bytes()


def test_a_repair_that_nothing_can_judge_is_refused(tmp_path, text):
    """All rows of the text are repaired on: it says so, and prunes where repair is off."""
    sizes = ("prune", "-m", TEACHER, "-o", tmp_path / "out", "--text", text, "--mlp", 60, "--tokens", "1000000", "--length", "64")
    done = run(*sizes, status=5)
    assert "to judge the repair by" in done.stderr and not (tmp_path / "out").exists()
    run(*sizes, "--no-repair")


def test_a_repair_is_judged_on_one_long_row(tmp_path):
    text = tmp_path / "long.jsonl"
    text.write_text("".join(json.dumps({"input_ids": [3 + (d * 31 + i * i * 7) % 94 for i in range(150)]}) + "\n" for d in range(60)))
    done = run("prune", "-m", TEACHER, "-o", tmp_path / "out", "--text", text, "--mlp", 60, "--tokens", 4100, "--length", 4100, "--json")
    assert json.loads(done.stdout)["kl_plain"] > 0


@pytest.mark.parametrize("sizes,said", [(("--mlp", 60), "score 1 of layers: expected a finite number"), (("--heads", 4), "of layers: expected"),
                                        (("--layers", 3), "the divergence is not finite"), (("--layers", 3, "--depth", "influence"), "of layers: expected")])
def test_scores_that_are_no_numbers(tmp_path, text, model, sizes, said):
    w = Weights(model)
    w.scale("model.layers.1.mlp.up_proj.weight", float("nan"), rows=[3])
    w.save()
    done = run("prune", "-m", model, "-o", tmp_path / "out", "--text", text, "--tokens", "1024", "--length", "64", *sizes, status=4)
    assert said in done.stderr, done.stderr
    assert not (tmp_path / "out").exists()


def test_weights_that_are_not_finite_are_not_saved(tmp_path, text):
    untied = Path(shutil.copytree(ROOT / "tests/golden/llama3-rope-untied", tmp_path / "untied"))
    w = Weights(untied)
    w.scale("model.embed_tokens.weight", float("nan"), rows=[0])  # an id that never occurs: no score tells of it
    w.save()
    done = run("prune", "-m", untied, "-o", tmp_path / "out", "--text", text, "--mlp", 60, "--tokens", "1024", "--length", "64", status=4)
    assert "prune: model.embed_tokens.weight is not finite" in done.stderr and not (tmp_path / "out").exists()


def test_layers_and_widths_together(tmp_path, text):
    report = prune(tmp_path / "out", text, "--layers", 3, "--mlp", 40, "--heads", 4)
    assert len(report["layers"]) == 3 and (report["mlp"], report["heads"], report["kv_heads"]) == (40, 4, 2)
    assert Weights(tmp_path / "out").shape("model.layers.2.mlp.down_proj.weight") == [D, 40]
    again = prune(tmp_path / "again", text, "--layers", 3, "--mlp", 40, "--heads", 4)
    assert (tmp_path / "out/model.safetensors").read_bytes() == (tmp_path / "again/model.safetensors").read_bytes()
    assert {**again, "out": ""} == {**report, "out": ""}


def test_a_hybrid_loses_layers_and_neurons(tmp_path, text):
    hybrid = ROOT / "tests/golden/hybrid"
    report = prune(tmp_path / "out", text, "--layers", 3, "--mlp", 50, model=hybrid)
    about = json.loads(run("inspect", tmp_path / "out", "--json").stdout)
    was = json.loads(run("inspect", hybrid, "--json").stdout)
    assert [x["kind"] for x in about["layers"]] == [was["layers"][l]["kind"] for l in report["layers"]]
    assert about["parameters"] == report["parameters"] < report["parameters_before"] == was["parameters"]


def test_impossible_sizes_are_refused(tmp_path, text):
    before = sorted(os.listdir(tmp_path))
    hybrid = ROOT / "tests/golden/hybrid"
    for model, args, said in [(TEACHER, (), "found none"), (TEACHER, ("--mlp", F), "found none"), (TEACHER, ("--mlp", F + 1), "at most the model's 80"),
                              (TEACHER, ("--layers", 5), "at most the model's 4"), (TEACHER, ("--heads", 5), "a multiple of 2 key/value heads"),
                              (TEACHER, ("--kv-heads", 1, "--heads", 4), "at most 3 of each"), (hybrid, ("--heads", 4), "attention or windows alone"),
                              (hybrid, ("--hidden", 40), "attention or windows alone"), (TEACHER, ("--mlp", 8, "--text", "no/such"), "no/such")]:
        text_of = () if "--text" in args else ("--text", text)
        done = subprocess.run([ZEBRA, "prune", "-m", model, "-o", tmp_path / "o", *text_of, *map(str, args)], capture_output=True, text=True, cwd=ROOT)
        assert done.returncode != 0 and said in done.stderr and len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert sorted(os.listdir(tmp_path)) == before
