"""Layer kinds beyond the paper from outside: composed, inspected, saved, packed, aligned, distilled."""

import json
import os
import shutil
import subprocess

import numpy as np
import pytest

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
ZEBRA = os.path.join(ROOT, os.environ.get("ZB_BUILD", "build/release"), "src", "cli", "zebra")
TEACHER = os.path.join(ROOT, "tests", "golden", "llama")
IDS = ",".join(str(3 + i * i * 5 % 94) for i in range(60))
# kind: values of state in a layer of 6 heads of 16, 2 kv heads, with a window of 5 and 2 sinks
RING, MAMBA2 = 2 * 2 * 16 * 7, 6 * 16 * 16 + 3 * (2 * 2 * 16 + 6 * 16)
DELTANET = 6 * 16 * 16 + 3 * 3 * 6 * 16
STATE = {"sliding_window": RING, "windowed_mamba2": RING + MAMBA2, "gated_deltanet": DELTANET,
         "windowed_deltanet": RING + DELTANET}


def run(*args):
    r = subprocess.run([ZEBRA, *args], capture_output=True, text=True, timeout=120,
                       env={**os.environ, "OMP_NUM_THREADS": "2", "OMP_WAIT_POLICY": "passive"})
    assert r.returncode == 0, r.stderr
    return r.stdout


def compose(out, kind, *more):
    run("compose", "--teacher", TEACHER, "--out", str(out), "--default-kind", kind, *more)
    return str(out)


def logprobs(model, *more):
    answer = json.loads(run("score", "-m", model, "--ids", IDS, "--precision", "f32", *more))
    return [t["logprob"] for t in answer["tokens"][1:]]


def worst(a, b):
    return max(abs(x - y) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("kind", STATE)
def test_state_and_files(tmp_path, kind):
    model = compose(tmp_path / "m", kind, "--attention-layers", "2", "--window", "5", "--sinks", "2")
    about = json.loads(run("inspect", model, "--json"))
    assert about["layer_kinds"] == {kind: 3, "attention": 1}
    assert about["kv_bytes_per_token"] == 4 * 2 * 2 * 16
    assert about["state_bytes"] == 3 * 4 * STATE[kind]
    packed = str(tmp_path / "m.gguf")
    run("quantize", "-m", model, "-o", packed, "--type", "f32")
    assert json.loads(run("inspect", packed, "--json"))["layers"] == about["layers"]
    assert logprobs(packed) == logprobs(model)


def test_windows_of_the_base_itself(tmp_path):
    """Mistral's layers see their window, alone, packed, saved again and kept in a hybrid."""
    mistral = tmp_path / "mistral"
    shutil.copytree(TEACHER, mistral)
    config = json.loads((mistral / "config.json").read_text())
    (mistral / "config.json").write_text(json.dumps(config | {"model_type": "mistral", "sliding_window": 8}))
    got, plain = logprobs(str(mistral)), logprobs(TEACHER)
    assert worst(got[:7], plain[:7]) < 1e-6 and worst(got[8:], plain[8:]) > 1e-3
    same = compose(tmp_path / "same", "sliding_window", "--window", "8", "--sinks", "0")
    assert worst(got, logprobs(same)) < 1e-6
    packed = str(tmp_path / "m.gguf")
    run("quantize", "-m", str(mistral), "-o", packed, "--type", "f32")
    assert logprobs(packed) == got
    run("compose", "--teacher", str(mistral), "--out", str(tmp_path / "all"), "--default-kind", "attention")
    saved = json.loads((tmp_path / "all/config.json").read_text())
    assert saved["sliding_window"] == 8 and not (tmp_path / "all/hybrid_config.json").exists()
    assert logprobs(str(tmp_path / "all")) == got
    run("compose", "--teacher", str(mistral), "--out", str(tmp_path / "h"), "--attention-layers", "2")
    assert json.loads(run("inspect", str(tmp_path / "h"), "--json"))["layer_kinds"] == {"mamba2": 3, "sliding_window": 1}


@pytest.mark.parametrize("kind", [k for k in STATE if "window" in k])
def test_a_window_as_long_as_the_text_is_the_teacher(tmp_path, kind):
    want = logprobs(TEACHER)
    assert worst(logprobs(compose(tmp_path / "wide", kind, "--window", "60")), want) < 1e-5
    assert worst(logprobs(compose(tmp_path / "narrow", kind, "--window", "5")), want) > 1e-3


@pytest.mark.parametrize("kind", [k for k in STATE if "window" in k])
def test_retrieval_heads(tmp_path, kind):
    model = compose(tmp_path / "m", kind, "--window", "5", "--sinks", "2", "--retrieval-heads", "1:0,3:1, 3:0")
    about = json.loads(run("inspect", model, "--json"))
    assert [layer["retrieval_heads"] for layer in about["layers"]] == [[], [0], [], [0, 1]]
    assert about["kv_bytes_per_token"] == 3 * 4 * 2 * 16
    assert about["state_bytes"] == 4 * (4 * STATE[kind] - 3 * RING // 2)
    packed = str(tmp_path / "m.gguf")
    run("quantize", "-m", model, "-o", packed, "--type", "f32")
    assert json.loads(run("inspect", packed, "--json"))["layers"] == about["layers"]
    assert logprobs(packed) == logprobs(model)
    everything = ",".join(f"{layer}:{head}" for layer in range(4) for head in range(2))
    everywhere = compose(tmp_path / "all", kind, "--window", "5", "--retrieval-heads", everything)
    assert worst(logprobs(everywhere), logprobs(TEACHER)) < 1e-5


def test_steps_of_the_mamba2_start_are_left_out(tmp_path, text, tensors):
    def start(without):
        out = compose(tmp_path / f"m{without}", "mamba2", "--init", "calibrated", "--calibration", text, "--calibration-tokens", "1024",
                      "--calibration-passes", "0", "--calibration-without", without)
        with open(os.path.join(out, "hybrid_config.json")) as f:
            activation = json.load(f)["ssm_cfg"].get("conv_activation", "silu")
        layer = {k.removeprefix("model.layers.1.mamba."): v for k, v in tensors(os.path.join(out, "model.safetensors")).items() if k.startswith("model.layers.1.mamba.")}
        return layer, activation

    whole, activation = start("")
    gate = 6 * 16
    decay = np.exp(whole["A_log"]) * np.logaddexp(0, whole["dt_bias"])
    b = slice(2 * 16, 4 * 16)  # channels of B in the convolution, behind those of x
    assert activation == "identity" and np.ptp(decay) > 1e-3 and np.any(whole["in_proj.weight"][:gate]) and np.any(whole["conv1d.bias"][b])
    assert start("identity")[1] == "silu"
    assert not np.any(start("constant")[0]["conv1d.bias"])
    plain = start("decay")[0]
    assert np.allclose(np.exp(plain["A_log"]) * np.logaddexp(0, plain["dt_bias"]), 1 / 16, rtol=1e-3) and not np.any(plain["D"])
    z, opened = start("gates, decay")[0], start("gates")[0]
    for layer in (z, opened):
        assert not np.any(layer["in_proj.weight"][:gate])
        assert np.allclose(layer["z_bias"] / (1 + np.exp(-layer["z_bias"])), 1, atol=1e-5)
    assert np.array_equal(opened["in_proj.weight"][gate:], whole["in_proj.weight"][gate:])  # the rest is as it was
    r = subprocess.run([ZEBRA, "compose", "--teacher", TEACHER, "--out", str(tmp_path / "no"), "--calibration-without", "gates,x"],
                       capture_output=True, text=True, timeout=120)
    assert r.returncode != 0 and 'expected some of identity, constant, decay, gates, found "x"' in r.stderr


@pytest.mark.parametrize(("init", "sizes", "said"), [
    ("calibrated", ["--nope-dim", "4", "--rope-dim", "8"], "layer 2: calibrated MLA: expected an even rope_dim"),
    ("calibrated", ["--kv-rank", "65"], "layer 2: calibrated MLA: expected a kv_rank from 1 to 48, found 65"),
    ("paper", ["--nope-dim", "17"], "layer 2: MLA from attention: expected qk_nope_head_dim from 0 to 16, found 17")])
def test_sizes_are_checked_before_any_layer_is_fitted(tmp_path, init, sizes, said):
    r = subprocess.run([ZEBRA, "compose", "--teacher", TEACHER, "--out", str(tmp_path / "no"), "--mla-layers", "2", "--init", init, "--kv-rank", "8", *sizes,
                        "--calibration", str(tmp_path / "missing.jsonl")], capture_output=True, text=True, timeout=60)
    assert r.returncode == 5 and said in r.stderr and len(r.stderr.splitlines()) == 1, r.stderr


@pytest.mark.parametrize("sizes,said", [
    (["--calibration-tokens", "100"], "calibration: expected at least one row of 512 tokens, found 100 tokens"),
    (["--calibration-tokens", "1024", "--calibration-length", "64"], "calibration: expected rows that hold more than 65 tokens of one document, found none")])
def test_a_calibration_that_is_too_short(tmp_path, text, sizes, said):
    r = subprocess.run([ZEBRA, "compose", "--teacher", TEACHER, "--out", str(tmp_path / "no"), "--default-kind", "mamba2", "--init", "calibrated",
                        "--calibration", text, *sizes], capture_output=True, text=True, timeout=60)
    assert r.returncode == 5 and said in r.stderr, r.stderr
    assert os.listdir(tmp_path) == [os.path.basename(text)]


@pytest.mark.parametrize("init", ["paper", "calibrated"])
def test_narrow_retrieval_heads(tmp_path, text, init):
    heads = ["--window", "5", "--sinks", "2", "--retrieval-heads", "1:0,3:1", "--init", init,
             "--calibration", text, "--calibration-tokens", "1024"]
    plain = logprobs(compose(tmp_path / "plain", "sliding_window", *heads))
    # values are turned but none is left out: the same model
    turned = compose(tmp_path / "turned", "sliding_window", *heads, "--retrieval-key-dim", "16", "--retrieval-value-dim", "16")
    assert worst(logprobs(turned), plain) < 1e-4
    model = compose(tmp_path / "m", "sliding_window", *heads, "--retrieval-key-dim", "6", "--retrieval-value-dim", "11")
    assert worst(logprobs(model), plain) > 1e-3
    about = json.loads(run("inspect", model, "--json"))
    assert about["kv_bytes_per_token"] == 4 * 2 * (6 + 11)
    packed = str(tmp_path / "m.gguf")
    run("quantize", "-m", model, "-o", packed, "--type", "f32")
    assert json.loads(run("inspect", packed, "--json"))["layers"] == about["layers"]
    assert logprobs(packed) == logprobs(model)


@pytest.mark.parametrize(("sizes", "said"), [(("7", "0"), "found 7 and 0"), (("18", "0"), "found 18 and 0"), (("0", "17"), "found 0 and 17")])
def test_narrow_heads_of_no_size(tmp_path, sizes, said):
    r = subprocess.run([ZEBRA, "compose", "--teacher", TEACHER, "--out", str(tmp_path / "m"), "--default-kind", "sliding_window",
                        "--retrieval-heads", "1:0", "--retrieval-key-dim", sizes[0], "--retrieval-value-dim", sizes[1]],
                       capture_output=True, text=True, timeout=120)
    assert r.returncode != 0 and said in r.stderr
    assert not (tmp_path / "m").exists()


@pytest.mark.parametrize(("heads", "said"), [
    ("1:0,4:0", 'layers 0 to 3 and key/value heads 0 to 1, found "4:0"'), ("1:2", 'found "1:2"'), ("1", 'found "1"'),
    ("-1:0", 'found "-1:0"'), ("x:0", 'found "x:0"'), ("1:", 'found "1:"'), ("2:0", "layer 2: expected a kind with a window")])
def test_retrieval_heads_that_are_none(tmp_path, heads, said):
    r = subprocess.run([ZEBRA, "compose", "--teacher", TEACHER, "--out", str(tmp_path / "m"), "--default-kind", "sliding_window",
                        "--attention-layers", "2", "--retrieval-heads", heads], capture_output=True, text=True, timeout=120)
    assert r.returncode == 5, r.stderr
    assert "retrieval_heads" in r.stderr and said in r.stderr
    assert not (tmp_path / "m").exists()


@pytest.mark.parametrize(("value", "said"), [
    ('{"1": [2]}', "layer 1: expected key/value heads 0 to 1"), ('{"7": [0]}', 'found "7"'), ('{"1": 0}', 'found "1"'),
    ('{"2": [0]}', "layer 2: retrieval heads need a kind with a window"), ("[1]", "expected an object")])
def test_retrieval_heads_in_a_broken_file(tmp_path, value, said):
    model = compose(tmp_path / "m", "sliding_window", "--attention-layers", "2")
    path = tmp_path / "m" / "hybrid_config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps({**config, "retrieval_heads": json.loads(value)}))
    r = subprocess.run([ZEBRA, "inspect", model], capture_output=True, text=True, timeout=120)
    assert r.returncode != 0 and said in r.stderr, r.stderr


def test_heads_that_are_found_are_composed(tmp_path, text):
    found = str(tmp_path / "heads.json")
    run("select", "--teacher", TEACHER, "--method", "heads", "--count", "3", "--window", "6", "--sinks", "2", "--text", text,
        "--tokens", "512", "--out", found, "--precision", "f32")
    heads = json.loads((tmp_path / "heads.json").read_text())
    model = compose(tmp_path / "m", "sliding_window", "--window", "6", "--sinks", "2", "--selection", found)
    about = json.loads(run("inspect", model, "--json"))
    listed = [f"{layer['layer']}:{head}" for layer in about["layers"] for head in layer["retrieval_heads"]]
    assert len(listed) == 3 and ",".join(listed) == heads["retrieval_heads"]
    assert about["kv_percent"] == pytest.approx(heads["kv_percent"]) == pytest.approx(100 * 3 / 8)


@pytest.mark.parametrize("kind", STATE)
def test_training(tmp_path, text, kind):
    start = compose(tmp_path / "start", kind, "--window", "5", "--attention-layers", "0")
    few = ["--train", text, "--valid", text, "--tokens", "1024", "--sequence-length", "64", "--batch", "2",
           "--lr", "1e-3", "--valid-tokens", "256", "--precision", "f32"]
    run("align", "--teacher", TEACHER, "--students", start, "--out", str(tmp_path / "aligned"), *few)
    run("distill", "--teacher", TEACHER, "--student", str(tmp_path / "aligned"), "--out", str(tmp_path / "end"), *few)
    assert worst(logprobs(str(tmp_path / "end")), logprobs(start)) > 1e-3
    # a kind whose names alignment did not know would stay as it is
    run("align", "--teacher", TEACHER, "--students", start, "--out", str(tmp_path / "mixers"), "--trainable", "mixer", *few)
    assert worst(logprobs(str(tmp_path / "mixers")), logprobs(start)) > 1e-4
