"""The real model against logs of lm-eval 0.4.13: every choice's log-likelihood of some documents of each task (bench/eval golden takes all of
them), few-shot prompts, generation, several processes, and the perplexity command."""
import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ZEBRA = ROOT / os.environ.get("ZB_BUILD", "build/release") / "src/cli/zebra"
MODEL = ROOT / "data/model/SmolLM2-135M-Instruct.Q4_1.gguf"
TASKS = ["arc_challenge", "arc_easy", "hellaswag", "openbookqa", "piqa", "winogrande", "sciq", "social_iqa", "commonsense_qa"]
DOCUMENTS = 4
TOLERANCE = 2e-3  # f32 sums of up to a few hundred log-probabilities, in another order

needs_model = pytest.mark.skipif(not MODEL.exists(), reason="data/model is not there: tools/prepare_data.py fetches it")


def run(*options, launcher=(), command="eval"):
    env = {**os.environ, "OMP_WAIT_POLICY": "passive"}
    p = subprocess.run([*launcher, ZEBRA, command, "-m", MODEL, "--precision", "f32", *options], cwd=ROOT, capture_output=True, text=True, timeout=900, env=env)
    assert p.returncode == 0, p.stderr
    return p


def lines(path):
    return [json.loads(l) for l in path.read_text(encoding="utf-8").splitlines()]


def check_document(ours, theirs):
    for i, r in enumerate(theirs["requests"]):
        asked = ours["arguments"][f"gen_args_{i}"]
        assert asked["arg_0"] == r.get("context", theirs.get("context"))
        assert asked["arg_1"] == r["continuation"]
        assert abs(float(ours["resps"][i][0][0]) - r["loglikelihood"]) <= TOLERANCE, (theirs["task"], theirs["doc_id"])
    assert len(ours["resps"]) == len(theirs["requests"]) > 0
    assert ours["acc"] == theirs["acc"]
    assert theirs["acc_norm"] is None or ours["acc_norm"] == theirs["acc_norm"]


@needs_model
def test_log_likelihoods_equal_the_harness(tmp_path):
    run("--tasks", ",".join(TASKS), "--limit", str(DOCUMENTS), "--log-samples", tmp_path, "-o", tmp_path / "results.json")
    config = json.loads((tmp_path / "results.json").read_text())["config"]
    assert (config["precision"], config["cache_type"], config["limit"]) == ("f32", "f32", DOCUMENTS)
    results = json.loads((tmp_path / "results.json").read_text())["results"]
    for task in TASKS:
        ours = lines(tmp_path / f"samples_{task}.jsonl")
        theirs = lines(ROOT / f"tests/golden/lm-eval/{task}_0shot.jsonl")[:DOCUMENTS]
        assert len(ours) == DOCUMENTS
        for a, b in zip(ours, theirs):
            check_document(a, b)
        mean = sum(b["acc"] for b in theirs) / DOCUMENTS
        assert abs(results[task]["acc,none"] - mean) < 1e-12


@needs_model
def test_few_shot_prompts_equal_the_harness(tmp_path):
    logged = [g for g in lines(ROOT / "tests/golden/lm-eval/mmlu_5shot.jsonl") if g["task"] in ("mmlu_sociology", "mmlu_human_sexuality", "mmlu_econometrics")]
    assert len(logged) == 3
    # The other two documents of each subject have the examples in common with the first: they are passed once.
    run("--tasks", ",".join(g["task"] for g in logged), "--limit", "3", "--num-fewshot", "5", "--log-samples", tmp_path)
    for g in logged:
        check_document(lines(tmp_path / f"samples_{g['task']}.jsonl")[0], g)


@needs_model
@pytest.mark.skipif(not (ROOT / "data/eval/gsm8k.jsonl").exists(), reason="data/eval/gsm8k.jsonl is not there: tools/prepare_data.py makes it")
def test_generated_answers_and_picked_documents(tmp_path):
    run("--tasks", "gsm8k", "--num-fewshot", "0", "--samples", '{"gsm8k": [1, 3]}', "--log-samples", tmp_path / "a", "-o", tmp_path / "r.json", "--cache", tmp_path / "cache")
    ours = lines(tmp_path / "a/samples_gsm8k.jsonl")
    assert [(s["doc_id"], s["filter"]) for s in ours] == [(1, "strict-match"), (3, "strict-match"), (1, "flexible-extract"), (3, "flexible-extract")]
    assert all(s["resps"][0][0] and "Question:" not in s["resps"][0][0] for s in ours)
    results = json.loads((tmp_path / "r.json").read_text())["results"]["gsm8k"]
    assert results["sample_len"] == 2 and "exact_match,strict-match" in results and "exact_match,flexible-extract" in results
    # From the cache: the same answers.
    run("--tasks", "gsm8k", "--num-fewshot", "0", "--samples", '{"gsm8k": [1, 3]}', "--log-samples", tmp_path / "b", "--cache", tmp_path / "cache")
    assert lines(tmp_path / "b/samples_gsm8k.jsonl") == ours


@needs_model
def test_chat_form(tmp_path):
    run("--tasks", "mmlu_econometrics", "--limit", "1", "--num-fewshot", "1", "--apply-chat-template", "--log-samples", tmp_path)
    asked = lines(tmp_path / "samples_mmlu_econometrics.jsonl")[0]["arguments"]["gen_args_0"]
    text = asked["arg_0"]
    assert asked["arg_1"] == "A"
    assert text.startswith("<|im_start|>system\nThe following are multiple choice questions") and text.endswith("Answer:<|im_end|>\n<|im_start|>assistant\n")
    assert text.count("<|im_start|>user\n") == 2 and "Answer:<|im_end|>\n<|im_start|>assistant\nA<|im_end|>" in text


LAUNCHER = ("mpirun", "--allow-run-as-root", "--oversubscribe", "-n", "2")


@pytest.fixture
def two_processes(tmp_path):
    """The launcher of two processes, where there is one and zebra knows it."""
    if not shutil.which("mpirun"):
        pytest.skip("no mpirun (openmpi-bin)")
    probe = subprocess.run([*LAUNCHER, ZEBRA, "eval", "-m", tmp_path / "none"], capture_output=True, text=True, timeout=60)
    if "built without MPI" in probe.stderr:
        pytest.skip("zebra was built without MPI (libopenmpi-dev)")
    return LAUNCHER


@needs_model
def test_two_processes_recall_what_one_does(tmp_path, two_processes):
    options = ("--tests", "niah_single_1,associative", "--lengths", "512", "--depths", "0,100", "--distances", "128", "--pairs", "8", "--samples", "2",
               "--threads", "1", "-q")
    one, two = tmp_path / "one", tmp_path / "two"
    a = run(*options, "--log-samples", one, "-o", tmp_path / "one.json", command="recall")
    b = run(*options, "--log-samples", two, "-o", tmp_path / "two.json", launcher=two_processes, command="recall")
    assert a.stdout == b.stdout and "niah_single_1" in a.stdout
    names = sorted(p.name for p in one.iterdir())
    assert len(names) == 2 and names == sorted(p.name for p in two.iterdir())
    for name in names:
        assert (one / name).read_bytes() == (two / name).read_bytes()
    results = [json.loads((tmp_path / f"{n}.json").read_text())["results"] for n in ("one", "two")]
    assert results[0] == results[1]


@needs_model
def test_two_processes_give_the_scores_of_one(tmp_path, two_processes):
    options = ("--tasks", "openbookqa,piqa", "--limit", "12", "--threads", "1", "-q")
    one = run(*options, "--log-samples", tmp_path / "one", "-o", tmp_path / "one.json")
    two = run(*options, "--log-samples", tmp_path / "two", "-o", tmp_path / "two.json", launcher=two_processes)
    assert two.stdout == one.stdout and one.stdout.startswith("|")
    for task in ("openbookqa", "piqa"):
        assert (tmp_path / f"one/samples_{task}.jsonl").read_bytes() == (tmp_path / f"two/samples_{task}.jsonl").read_bytes()
    p = subprocess.run([ZEBRA, "eval", "--compare", tmp_path / "one.json", tmp_path / "two.json"], capture_output=True, text=True, timeout=60)
    assert p.returncode == 0, p.stderr
    assert "|piqa|acc|12|" in p.stdout and "|+0.0000|0.0000|0|0|1|" in p.stdout


@needs_model
def test_a_pipeline_compares_document_by_document(tmp_path):
    out, recipe = tmp_path / "out", tmp_path / "windows.yaml"
    recipe.write_text(f"output: {out}\nteacher: {MODEL}\nprecision: f32\ncompose: {{default_kind: sliding_window, window: 4, sinks: 1}}\n"
                      "eval: {tasks: 'openbookqa,piqa,mmlu_marketing', limit: 8}\nreport:\n")
    p = subprocess.run([ZEBRA, "pipeline", recipe], cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert p.returncode == 0, p.stderr
    report = json.loads((out / "report.json").read_text())
    averages, variances = [], []
    for task, metric in (("openbookqa", "acc_norm"), ("piqa", "acc"), ("mmlu_marketing", "acc")):
        teacher, student = ({d["doc_id"]: d[metric] for d in lines(out / f"eval/{who}/samples_{task}.jsonl")} for who in ("teacher", "student"))
        d = [student[i] - teacher[i] for i in teacher]
        mean = sum(d) / len(d)
        assert len(d) == 8 and len(student) == 8
        averages.append(mean)
        variances.append(sum((x - mean) ** 2 for x in d) / 7 / 8)
    assert any(averages) and sum(variances) > 0
    assert report["student"]["average_difference"] == pytest.approx(sum(averages) / 3, abs=1e-9)
    assert report["student"]["average_difference_stderr"] == pytest.approx(sum(variances) ** 0.5 / 3, abs=1e-9)
    assert "Document by document the average of student is" in p.stdout
    # what an earlier version left has no answers to compare
    shutil.rmtree(out / "eval/teacher")
    (out / "stages/report.json").unlink(missing_ok=True)
    again = subprocess.run([ZEBRA, "pipeline", recipe], cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert again.returncode == 0, again.stderr
    assert "average_difference" not in json.loads((out / "report.json").read_text())["student"]


@needs_model
def test_a_model_has_no_divergence_from_itself(tmp_path):
    out = tmp_path / "perplexity.json"
    run("--teacher", MODEL, "--tasks", "", "--text", ROOT / "data/text/valid.txt", "--text-tokens", "512", "--perplexity-out", out)
    r = json.loads(out.read_text())
    assert abs(r["kl_to_teacher"]) < 1e-6 and r["agreement"] == 1
    assert 5 < r["perplexity"] < 60
