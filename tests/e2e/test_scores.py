"""The real model against logs of lm-eval 0.4.13: every choice's log-likelihood of the first documents of each task, and the perplexity command."""
import json
import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ZEBRA = Path(os.environ.get("ZB_BUILD", ROOT / "build/release")) / "src/cli/zebra"
MODEL = ROOT / "data/model/SmolLM2-135M-Instruct.Q4_1.gguf"
TASKS = ["arc_challenge", "arc_easy", "hellaswag", "openbookqa", "piqa", "winogrande"]
DOCUMENTS = 5
TOLERANCE = 2e-3  # f32 sums of up to a few hundred log-probabilities, in another order


@pytest.mark.skipif(not MODEL.exists(), reason="data/model is not there: tools/prepare_data.py fetches it")
def test_log_likelihoods_equal_the_harness(tmp_path):
    p = subprocess.run(
        [ZEBRA, "eval", "-m", MODEL, "--precision", "f32", "--tasks", ",".join(TASKS), "--limit", str(DOCUMENTS), "--log-samples", tmp_path, "-o", tmp_path / "results.json"],
        cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert p.returncode == 0, p.stderr
    results = json.loads((tmp_path / "results.json").read_text())["results"]
    compared = 0
    for task in TASKS:
        files = list(tmp_path.glob(f"samples_{task}*.jsonl"))
        assert len(files) == 1, task
        ours = [json.loads(l) for l in files[0].read_text().splitlines()]
        theirs = [json.loads(l) for l in (ROOT / f"tests/golden/lm-eval/{task}_0shot.jsonl").read_text().splitlines()]
        assert len(ours) == DOCUMENTS
        for a, b in zip(ours, theirs):
            got = [float(r[0][0]) for r in a["resps"]]
            want = [r["loglikelihood"] for r in b["requests"]]
            assert len(got) == len(want)
            for x, y in zip(got, want):
                assert abs(x - y) <= TOLERANCE, (task, a["doc_id"], x, y)
                compared += 1
            assert float(a["acc"]) == b["acc"]
        mean = sum(b["acc"] for b in theirs[:DOCUMENTS]) / DOCUMENTS
        assert abs(results[task]["acc,none"] - mean) < 1e-12
    assert compared >= 4 * DOCUMENTS * 4


@pytest.mark.skipif(not MODEL.exists(), reason="data/model is not there: tools/prepare_data.py fetches it")
def test_a_model_has_no_divergence_from_itself(tmp_path):
    out = tmp_path / "perplexity.json"
    p = subprocess.run([ZEBRA, "eval", "-m", MODEL, "--teacher", MODEL, "--tasks", "", "--text", ROOT / "data/text/valid.txt", "--text-tokens", "512", "--perplexity-out", out],
                       cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert p.returncode == 0, p.stderr
    r = json.loads(out.read_text())
    assert abs(r["kl_to_teacher"]) < 1e-6 and r["agreement"] == 1
    assert 5 < r["perplexity"] < 60
