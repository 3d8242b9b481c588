"""`zebra quantize`: the files as the `gguf` package reads them, what the tables say, and who may open the result."""
import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]
ZEBRA = (ROOT / os.environ.get("ZB_BUILD", "build/release")) / "src/cli/zebra"
GOLDEN = ROOT / "tests/golden"
SMOLLM2 = ROOT / "data/model/SmolLM2-135M-Instruct.Q4_1.gguf"
VALID = ROOT / "data/text/valid.jsonl"
TYPES = ["q8_0", "q4_0", "q4_1", "q5_0", "q5_1", "q4_k", "q5_k", "q6_k", "f16", "bf16", "f32"]

real_model = pytest.mark.skipif(not SMOLLM2.exists(), reason=f"{SMOLLM2} is fetched by ./run test")


def zebra(*args, status=0):
    done = subprocess.run([ZEBRA, *map(str, args)], capture_output=True, text=True, timeout=600, cwd=ROOT)
    assert done.returncode == status, done.stderr
    return done


def quantize(*args):
    return json.loads(zebra("quantize", *args, "--json", "--quiet").stdout)


@pytest.fixture(scope="module")
def wide_config(tmp_path_factory):
    """A Transformer and a hybrid whose rows are whole super-blocks."""
    base = json.loads((GOLDEN / "llama/config.json").read_text())
    base |= {"hidden_size": 256, "intermediate_size": 512, "num_attention_heads": 8, "num_key_value_heads": 4,
             "head_dim": 32, "num_hidden_layers": 2}
    hybrid = json.loads((GOLDEN / "hybrid/hybrid_config.json").read_text())
    hybrid |= {"hidden_size": 256, "intermediate_size": 512, "num_attention_heads": 8, "num_key_value_heads": 4,
               "n_layer": 2, "mla_layers": [1], "kv_lora_rank": 256, "q_lora_rank": None, "qk_rope_head_dim": 16,
               "qk_nope_head_dim": 16, "v_head_dim": 32, "d_model": 256, "d_inner": 256, "d_xb": 128,
               "ssm_cfg": {"expand": 1, "ngroups": 8, "d_state": 32}}
    for key in ("kv_lora_ranks", "q_lora_ranks", "layer_rank_list", "attention_layers"):
        hybrid.pop(key, None)
    dirs = []
    for name, extra in (("llama", None), ("zebra", hybrid)):
        d = tmp_path_factory.mktemp(name)
        (d / "config.json").write_text(json.dumps(base))
        if extra:
            (d / "hybrid_config.json").write_text(json.dumps(extra))
        dirs.append(d)
    return dirs


@pytest.mark.parametrize("kind", [0, 1], ids=["llama", "zebra"])
def test_mixers_may_have_a_type_of_their_own(tmp_path, wide_config, kind):
    report = quantize("--random", wide_config[kind], "-o", tmp_path / "x.gguf", "--type", "q4_1", "--mixer", "q8_0")
    types = {}
    for t in report["tensors"]:
        types.setdefault(t["class"], set()).add(t["to"])
    mixers = types.keys() - {"mlp", "embedding", "head", "wide"}
    assert len(mixers) == 1 + kind and all(types[m] == {"Q8_0"} for m in mixers)
    assert types["mlp"] == {"Q4_1"} and types["embedding"] == {"Q6_K"}


@pytest.mark.parametrize("kind", [0, 1], ids=["llama", "zebra"])
@pytest.mark.parametrize("type", TYPES)
def test_the_gguf_package_reads_the_same_values(tmp_path, wide_config, kind, type):
    gguf = pytest.importorskip("gguf")
    wide, packed = tmp_path / "wide.gguf", tmp_path / "packed.gguf"
    quantize("--random", wide_config[kind], "-o", wide, "--type", "f32")
    report = quantize("-m", wide, "-o", packed, "--type", type, "--embedding", type)
    assert all("note" not in t or "also as F32" in t["note"] for t in report["tensors"])
    a, b = gguf.GGUFReader(wide), gguf.GGUFReader(packed)
    assert b.fields["general.architecture"].contents() == ("llama", "zebra")[kind]
    values = {t.name: t.data for t in a.tensors}
    seen = set()
    for t in b.tensors:
        seen.add(t.tensor_type.name)
        got = gguf.quants.dequantize(t.data, t.tensor_type)
        if t.name.endswith("_wide"):
            whole = values[t.name.removesuffix("_wide")]
            assert np.array_equal(got, whole[-len(got):])
            continue
        want = values[t.name]
        error = np.sqrt(np.mean((got - want) ** 2) / np.mean(want ** 2))
        most = {"q8": 0.008, "q6": 0.025, "q5": 0.06, "q4": 0.11, "f1": 0.001, "bf": 0.004, "f3": 0}[type[:2]]
        assert error <= (most if t.tensor_type.name == type.upper() else 0), (t.name, error)
    assert type.upper() in seen and seen <= {type.upper(), "F32"}
    # our own reader holds exactly what the package sees
    zebra("quantize", "-m", packed, "-o", tmp_path / "again.gguf", "--type", "f32", "--embedding", "f32", "--quiet")
    again = {t.name: t.data for t in gguf.GGUFReader(tmp_path / "again.gguf").tensors}
    for t in b.tensors:
        if t.name + "_wide" in values or t.name.endswith("_wide") or "in_proj" in t.name:
            continue
        assert np.array_equal(again[t.name], gguf.quants.dequantize(t.data, t.tensor_type)), t.name


def with_types_of_others(gguf, source, packed, wide):
    """`source` with its matrices replaced by random blocks of the types that are read and not written, and the same in f32."""
    scales = {"Q2_K": (80, 82), "Q3_K": (108,), "IQ4_NL": (0,), "IQ4_XS": (0,), "TQ1_0": (52,), "TQ2_0": (64,)}
    rng = np.random.default_rng(11)
    reader = gguf.GGUFReader(source)
    writers = [gguf.GGUFWriter(path, "llama") for path in (packed, wide)]
    for f in reader.fields.values():
        if not f.name.startswith("GGUF.") and f.name != "general.architecture":
            for w in writers:
                w.add_key_value(f.name, f.contents(), f.types[0], f.types[-1] if len(f.types) > 1 else None)
    for i, t in enumerate(reader.tensors):
        if t.data.ndim == 1:
            for w in writers:
                w.add_tensor(t.name, t.data)
            continue
        kind = gguf.GGMLQuantizationType[list(scales)[i % len(scales)]]
        elements, size = gguf.GGML_QUANT_SIZES[kind]
        blocks = rng.integers(0, 256, (t.data.size // elements, size), dtype=np.uint8)
        for at in scales[kind.name]:
            blocks[:, at:at + 2] = rng.uniform(-0.01, 0.01, (len(blocks), 1)).astype(np.float16).view(np.uint8)
        blocks = blocks.reshape(t.data.shape[0], -1)
        writers[0].add_tensor(t.name, blocks, raw_dtype=kind)
        writers[1].add_tensor(t.name, gguf.quants.dequantize(blocks, kind))
    for w in writers:
        w.write_header_to_file()
        w.write_kv_data_to_file()
        w.write_tensors_to_file()
        w.close()
    return set(scales)


def test_types_of_other_programs_run_and_unpack(tmp_path, wide_config):
    gguf = pytest.importorskip("gguf")
    source, packed, wide = (tmp_path / f"{name}.gguf" for name in ("source", "packed", "wide"))
    quantize("--random", wide_config[0], "-o", source, "--type", "f32")
    types = with_types_of_others(gguf, source, packed, wide)
    assert types <= {t.tensor_type.name for t in gguf.GGUFReader(packed).tensors}
    ids = ",".join(str(3 + i * 7 % 90) for i in range(24))
    for precision in ("f32", "int8"):
        a, b = (json.loads(zebra("score", "-m", m, "--ids", ids, "--precision", precision).stdout) for m in (packed, wide))
        for x, y in zip(a["tokens"][1:], b["tokens"][1:], strict=True):
            assert x["logprob"] == pytest.approx(y["logprob"], abs=1e-4)
    zebra("quantize", "-m", packed, "-o", tmp_path / "again.gguf", "--type", "f32", "--embedding", "f32", "--quiet")
    want = {t.name: t.data for t in gguf.GGUFReader(wide).tensors}
    for t in gguf.GGUFReader(tmp_path / "again.gguf").tensors:
        assert np.array_equal(t.data, want[t.name]), t.name


def test_dry_run_lists_and_writes_nothing(tmp_path, wide_config):
    out = tmp_path / "x.gguf"
    text = zebra("quantize", "--random", wide_config[1], "-o", out, "--type", "q4_k", "--dry-run").stdout
    assert not out.exists()
    lines = text.splitlines()
    assert any("mamba.in_proj.weight" in line and "Q4_K" in line and "last 8 rows also as F32" in line for line in lines)
    assert any("embed_tokens" in line and "Q6_K" in line for line in lines)
    assert any("A_log" in line and "wide" in line and "F32" in line for line in lines)
    assert "bits per weight" in lines[-1]
    report = quantize("--random", wide_config[1], "-o", out, "--type", "q4_k")
    assert sum(t["bytes"] for t in report["tensors"]) == report["bytes"]
    assert 0 <= out.stat().st_size - report["bytes"] < 20000
    shown = json.loads(zebra("inspect", out, "--json").stdout)
    assert shown["weight_bytes"] == report["bytes"]
    assert shown["layer_kinds"] == {"mamba2": 1, "mla": 1}


def test_errors_are_one_line(tmp_path):
    def fails(status, message, *args):
        done = zebra("quantize", *args, status=status)
        assert message in done.stderr and done.stderr.count("\n") == 1, done.stderr

    fails(2, "expected a model or random, one of them", "-o", tmp_path / "x.gguf")
    fails(5, "expected a name that ends in .gguf", "-m", GOLDEN / "llama", "-o", tmp_path / "x", "--type", "q4_0")
    fails(2, "type", "-m", GOLDEN / "llama", "-o", tmp_path / "x.gguf", "--type", "q3_k")
    fails(3, "no such model", "-m", tmp_path / "none", "-o", tmp_path / "x.gguf")
    fails(3, "", "-m", GOLDEN / "llama", "-o", tmp_path / "no" / "folder" / "x.gguf")


@real_model
def test_smollm2_every_command_takes_the_file(tmp_path):
    out = tmp_path / "q8.gguf"
    quantize("-m", SMOLLM2, "-o", out, "--type", "q8_0")
    for text in ("The capital of France is", "def f(x):\n    return 12 + 3", "  naïve café 東京 <|im_end|>"):
        ids = [zebra("tokenize", "-m", m, "-p", text, "--json").stdout for m in (SMOLLM2, out)]
        assert ids[0] == ids[1]
    answers = [zebra("generate", "-m", m, "-p", "The capital of France is", "-n", "3", "--temp", "0", "--quiet").stdout
               for m in (SMOLLM2, out)]
    assert "Paris" in answers[0] and "Paris" in answers[1]
    scores = [json.loads(zebra("score", "-m", m, "-p", "The capital of France is Paris.").stdout)
              for m in (SMOLLM2, out)]
    assert scores[0].keys() == scores[1].keys()


@real_model
@pytest.mark.skipif(not VALID.exists(), reason="held-out text is fetched by ./run test")
def test_smollm2_measure_by_class(tmp_path):
    args = ["-m", SMOLLM2, "-o", tmp_path / "q4.gguf", "--type", "q4_0", "--dry-run", "--measure", VALID,
            "--measure-tokens", "256", "--sequence-length", "128"]
    m = quantize(*args)["measure"]
    rows = {r["class"]: r for r in m["classes"]}
    assert list(rows) == ["attention", "mlp", "all"]  # the file's embedding is Q8_0 already
    assert rows["all"]["tensors"] == rows["attention"]["tensors"] + rows["mlp"]["tensors"] == 210
    for r in rows.values():
        assert 0 < r["kl"] < 1 and 0.5 < r["agreement"] <= 1
    assert rows["all"]["kl"] > rows["attention"]["kl"]


def test_a_teacher_in_integers_teaches_almost_the_same(tmp_path, wide_config):
    wide, packed, text = tmp_path / "wide.gguf", tmp_path / "packed.gguf", tmp_path / "text.jsonl"
    quantize("--random", wide_config[0], "-o", wide, "--type", "f32")
    quantize("-m", wide, "-o", packed, "--type", "q8_0")
    rng = np.random.default_rng(5)
    text.write_text("".join(json.dumps({"input_ids": rng.integers(3, 97, 40).tolist()}) + "\n" for _ in range(40)))
    zebra("compose", "-t", packed, "-o", tmp_path / "student", "--default-kind", "mla", "--kv-rank", 16)
    kl = {}
    for precision in ("same", "int8"):
        r = zebra("distill", "-t", packed, "--student", tmp_path / "student", "-o", tmp_path / precision, "--tokens", 512, "--sequence-length", 64,
              "--batch", 2, "--train", text, "--valid", text, "--valid-tokens", 512, "--teacher-precision", precision, "--precision", "f32")
        assert "stored quantised" not in r.stderr
        log = [json.loads(line) for line in (tmp_path / f"{precision}.train/log.jsonl").read_text().splitlines()]
        kl[precision] = [o["valid_kl"] for o in log if "valid_kl" in o]
    assert len(kl["same"]) == 2 and kl["same"] != kl["int8"]
    assert kl["int8"] == pytest.approx(kl["same"], rel=0.02)


def test_integers_for_weights_that_are_not_quantised_are_warned_of(tmp_path):
    llama, hybrid, text = GOLDEN / "llama", GOLDEN / "hybrid", tmp_path / "text.jsonl"
    text.write_text(json.dumps({"input_ids": [5, 6, 7, 8] * 20}) + "\n")
    said = f"warning: {llama}: precision int8 is for weights that are stored quantised"
    r = zebra("distill", "-t", llama, "--student", hybrid, "-o", tmp_path / "out", "--tokens", 64, "--sequence-length", 32, "--batch", 1,
              "--train", text, "--valid", text, "--valid-tokens", 0, "--teacher-precision", "int8")
    assert said in r.stderr
    assert said in zebra("eval", "-m", llama, "--tasks", "", "--text", text, "--precision", "int8").stderr
