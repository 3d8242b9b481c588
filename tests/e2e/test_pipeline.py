"""The whole path on a tiny model: a pipeline that is killed again and again ends with the weights of an undisturbed one."""
import json
import math
import os
import random
import shutil
import signal
import subprocess
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
ZEBRA = ROOT / os.environ.get("ZB_BUILD", "build/release") / "src/cli/zebra"

RECIPE = """
output: {out}
teacher: {teacher}
seed: 7
precision: f32
compose: {{q_rank: 20, kv_rank: 12, nope_dim: 8, rope_dim: 8}}
align: {{train: {text}, valid: {text}, tokens: 2560, sequence_length: 64, batch: 2, lr: 1e-3, valid_tokens: 256, save_every: 2, eval_every: 2, early_stop: 1, student_inputs: 0.4}}
select: {{text: {text}, count: 2, tokens: 256, sequence_length: 64}}
distill: {{train: {text}, valid: {text}, tokens: 2560, sequence_length: 64, batch: 2, micro_batch: 1, lr: 1e-3, valid_tokens: 256, save_every: 2, eval_every: 5, untie: true, short_length: 16, short_share: 0.5}}
tune: {{train: {pairs}, valid: {pairs}, epochs: 2, batch: 6, micro_batch: 2, lr: 1e-3, beta: 0.1, decay: 0.5, eval_every: 3, save_every: 2}}
"""


def recipe_text(folder, name, text):
    return RECIPE.format(out=folder / name, teacher=ROOT / "tests/golden/llama", text=text, pairs=text.with_name("pairs.jsonl"))


def write_recipe(folder, name, text):
    path = folder / f"{name}.yaml"
    path.write_text(recipe_text(folder, name, text))
    return path


def make_text(folder):
    rng = random.Random(3)
    path = folder / "text.jsonl"
    with path.open("w") as f:
        for _ in range(60):
            ids = [rng.randrange(3, 97) for _ in range(rng.randrange(5, 150))]
            f.write(json.dumps({"input_ids": ids}) + "\n")
    with path.with_name("pairs.jsonl").open("w") as f:
        for _ in range(23):
            prompt, good, bad = ([rng.randrange(3, 97) for _ in range(rng.randrange(2, 12))] for _ in range(3))
            f.write(json.dumps({"prompt": prompt, "chosen": good, "rejected": bad}) + "\n")
    return path


def run(recipe, *settings):
    return subprocess.run([ZEBRA, "pipeline", recipe, *settings, "--threads", "2"], capture_output=True, text=True, timeout=300)


def weights(folder, name):
    return [(folder / name / student / "model.safetensors").read_bytes() for student in ("student", "tuned")]


def test_killed_pipeline_ends_with_the_same_weights(tmp_path):
    text = make_text(tmp_path)
    rate = "align.lr=0.02"  # some layers become worse, and stop early
    whole = run(write_recipe(tmp_path, "whole", text), rate)
    assert whole.returncode == 0, whole.stderr
    assert "mla-aligned: layer 0 stops at its best weights" in whole.stderr
    recipe = write_recipe(tmp_path, "killed", text)
    rng = random.Random(11)
    kills = 0
    for attempt in range(200):
        p = subprocess.Popen([ZEBRA, "pipeline", recipe, rate, "--threads", "2"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            # later attempts get more time, so that a slow machine finishes too
            p.wait(timeout=rng.uniform(0.02, 0.15 + 0.1 * attempt))
        except subprocess.TimeoutExpired:
            p.send_signal(rng.choice([signal.SIGKILL, signal.SIGTERM]))
            p.wait(timeout=120)
            kills += p.returncode != 0
            continue
        assert p.returncode == 0
        break
    else:
        raise AssertionError("never finished")
    assert kills >= 2, "the test must interrupt the run to say anything"
    assert weights(tmp_path, "killed") == weights(tmp_path, "whole")
    for stage, last in (("distill", 20), ("tune", 8)):
        logs = [json.loads(l) for l in (tmp_path / "killed" / stage / "log.jsonl").read_text().splitlines()]
        steps = [o["step"] for o in logs if "loss" in o]
        assert steps == sorted(set(steps)) and steps[-1] == last


def test_training_lowers_the_divergence_and_select_keeps_two(tmp_path):
    text = make_text(tmp_path)
    done = run(write_recipe(tmp_path, "one", text))
    assert done.returncode == 0, done.stderr
    logs = [json.loads(l) for l in (tmp_path / "one/distill/log.jsonl").read_text().splitlines()]
    kl = [o["valid_kl"] for o in logs if "valid_kl" in o]
    assert kl[-1] < kl[0]
    chosen = json.loads((tmp_path / "one/select.json").read_text())
    hybrid = json.loads((tmp_path / "one/student/hybrid_config.json").read_text())
    assert len(chosen["layers"]) == 2 and hybrid["mla_layers"] == chosen["layers"]
    again = run(tmp_path / "one.yaml")
    assert again.returncode == 0 and again.stderr.count("done before") == 6
    writing = run(tmp_path / "one.yaml", "align.save_every=3", "distill.log_every=2", "tune.keep_last=2", "tune.resume=never", "distill.memory_limit=4G")
    assert writing.returncode == 0 and writing.stderr.count("done before") == 6
    other = run(tmp_path / "one.yaml", "distill.save_every=3", "tune.beta=0.2")
    assert other.returncode == 0 and other.stderr.count("done before") == 5 and "== tune" in other.stderr
    assert "tune: to be made again: beta was 0.1, is 0.2" in other.stderr, other.stderr
    assert run(tmp_path / "one.yaml").returncode == 0
    check_records_of_other_versions(tmp_path)
    logs = [json.loads(l) for l in (tmp_path / "one/tune/log.jsonl").read_text().splitlines()]
    loss = [o["valid_loss"] for o in logs if "valid_loss" in o]
    assert loss[-1] < loss[0] and abs(loss[0] - math.log(2)) < 1e-6


def check_records_of_other_versions(folder):
    # an option that a record does not know stands at its default, or the stage is stale
    record = folder / "one/stages/tune.json"
    own = record.read_text()
    for gone, stale in (("clip", False), ("decay", True)):
        o = json.loads(own)
        del o["options"][gone]
        record.write_text(json.dumps(o))
        again = run(folder / "one.yaml")
        assert again.returncode == 0 and ("tune: to be made again: decay was 1, is 0.5" in again.stderr) == stale, again.stderr
        assert again.stderr.count("done before") == 6 - stale
    for broken in ("", "[]", own.replace("true", "tru"), own.replace('"from"', '"form"')):
        record.write_text(broken)
        again = run(folder / "one.yaml")
        assert again.returncode == 0 and "== tune" in again.stderr and json.loads(record.read_text())["done"], again.stderr


def plan_recipe(folder, name, text, candidates, align):
    select = f"text: {text}, cache_percent: 60, context: 64, tokens: 256, sequence_length: 64, candidates: [{candidates}], compare: [40, 60], contexts: 64"
    lines = recipe_text(folder, name, text).splitlines()
    keep = [l for l in lines if not l.startswith(("select", "distill", "tune") + (() if align else ("align", "compose")))]
    if not align:
        keep.append(f"compose: {{init: calibrated, calibration: {text}, calibration_tokens: 1024}}")
    path = folder / f"{name}.yaml"
    path.write_text("\n".join(keep + [f"select: {{{select}}}", "report:", ""]))
    return path


def check_plan(folder, name):
    chosen = json.loads((folder / name / "select.json").read_text())
    hybrid = json.loads((folder / name / "hybrid/hybrid_config.json").read_text())
    kinds = [row["kind"] for row in chosen["plan"]]
    assert len(kinds) == 4 and chosen["bytes"] <= chosen["budget_bytes"] and chosen["kl"] >= 0
    assert hybrid["mla_layers"] == [i for i, k in enumerate(kinds) if k == "mla"] == chosen["layers"]
    assert hybrid.get("attention_layers", []) == [i for i, k in enumerate(kinds) if k == "attention"]
    assert len(chosen["compare"]) == 12
    page = (folder / name / "report.html").read_text()
    assert "Plans of all methods" in page
    return chosen


def test_plan_under_a_budget_composed_anew(tmp_path):
    text = make_text(tmp_path)
    recipe = plan_recipe(tmp_path, "fresh", text, "attention, mla:12+6, mla:6+6, mamba2", align=False)
    done = run(recipe)
    assert done.returncode == 0, done.stderr
    chosen = check_plan(tmp_path, "fresh")
    ranks = [int(row["candidate"][4:].split("+")[0]) for row in chosen["plan"] if row["kind"] == "mla"]
    hybrid = json.loads((tmp_path / "fresh/hybrid/hybrid_config.json").read_text())
    listed = hybrid.get("layer_rank_list", {})
    assert [listed.get(str(i), {"kv_rank": hybrid["kv_lora_rank"]})["kv_rank"] for i in hybrid["mla_layers"]] == ranks
    assert not (tmp_path / "fresh/mla").exists(), "students of all layers are not needed"
    again = run(recipe)
    assert again.returncode == 0 and again.stderr.count("done before") == 2, again.stderr
    table = ("select.candidates=attention,sliding_window", "compose.window=6")
    assert run(recipe, *table).returncode == 0
    measures = tmp_path / "fresh/select.measures.json"
    other = run(recipe, *table[:1], "compose.window=5")
    assert other.returncode == 0, other.stderr
    for where in ("select.measures.json: sliding_window", "sliding_window: sliding_window"):  # the table, and the folder
        assert f"{where}: made with a window of 6 and 4 sinks, composing takes 5 and 4: to be made again" in other.stderr, other.stderr
    assert {c["name"]: c["window"] for c in json.loads(measures.read_text())["candidates"]}["sliding_window"] == (5 << 24) + 4
    assert not measures.with_suffix(".json.old").exists()  # only these rows were measured anew
    before = measures.read_bytes()
    other = run(recipe, "compose.key_weight=3")
    assert other.returncode == 0 and "select.measures.json: made with key_weight 2.0, found 3.0: to be made again" in other.stderr, other.stderr
    assert measures.with_suffix(".json.old").read_bytes() == before
    check_plan(tmp_path, "fresh")
    named = run(recipe, f"select.measures={measures.with_suffix('.json.old')}", "compose.key_weight=4")  # others may use it
    assert named.returncode != 0 and "made with key_weight 2.0, found 4.0: remove it, or name another" in named.stderr, named.stderr
    whole = measures.read_bytes()
    table = json.loads(whole)
    for part in (table["setup"], table["setup"]["compose"]):
        for key in [k for k in part if k.endswith("(contents)")]:
            del part[key]  # as earlier versions wrote it
    measures.write_text(json.dumps(table))
    shared = run(recipe, "compose.key_weight=3", f"select.measures={measures}", "select.verify=0")
    assert shared.returncode == 0 and "== select" in shared.stderr and "mamba2 4/4" not in shared.stderr, shared.stderr  # nothing is measured
    measures.write_bytes(whole)
    with text.open("a") as f:
        f.write(json.dumps({"input_ids": list(range(3, 90))}) + "\n")
    other = run(recipe, "compose.key_weight=3")
    assert other.returncode == 0, other.stderr
    for said in ("select.measures.json: made with calibration (contents)", "mamba2: made with calibration (contents)"):
        assert said in other.stderr, other.stderr


def test_plan_under_a_budget_of_aligned_layers(tmp_path):
    text = make_text(tmp_path)
    recipe = plan_recipe(tmp_path, "aligned", text, "attention, mla, mamba2", align=True)
    done = run(recipe)
    assert done.returncode == 0, done.stderr
    chosen = check_plan(tmp_path, "aligned")
    names = {row["candidate"] for row in chosen["plan"]}
    assert names <= {"attention", f"mla={tmp_path}/aligned/mla-aligned", f"mamba2={tmp_path}/aligned/mamba2-aligned"} and len(names) > 1
    rows = json.loads((tmp_path / "aligned/select.measures.json").read_text())["measures"]
    done = run(recipe, "align.lr=2e-3")
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("has other weights than when its layers were measured: to be made again") == 2, done.stderr
    again = json.loads((tmp_path / "aligned/select.measures.json").read_text())["measures"]
    kept = [row["candidate"] for row, was in zip(again, rows, strict=True) if row == was]
    assert set(kept) == {"attention"}


def check_refused(tmp_path, text, old, new, expected):
    recipe = write_recipe(tmp_path, "bad", text)
    recipe.write_text(recipe.read_text().replace(old, new))
    p = run(recipe)
    assert p.returncode != 0 and expected in p.stderr, p.stderr
    assert len(p.stderr.strip().splitlines()) == 1, "one line"
    assert not (tmp_path / "bad").exists(), "nothing may be written before the recipe is checked"


def test_retrieval_heads_are_found_and_kept(tmp_path):
    text = make_text(tmp_path)
    recipe = tmp_path / "heads.yaml"
    recipe.write_text(f"output: {tmp_path / 'out'}\nteacher: {ROOT / 'tests/golden/llama'}\nprecision: f32\n"
                      "compose: {default_kind: sliding_window, mla_layers: '0,2', kv_rank: 8, rope_dim: 8, window: 6, sinks: 2}\n"
                      f"select: {{method: heads, count: 3, text: {text}, tokens: 512}}\n")
    done = run(recipe)
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "out/select.json").read_text())
    assert found["window"] == 6 and found["sinks"] == 2 and found["count"] == 3
    config = json.loads((tmp_path / "out/hybrid/hybrid_config.json").read_text())
    heads = [f"{layer}:{head}" for layer, list_ in config["retrieval_heads"].items() for head in list_]
    assert ",".join(heads) == found["retrieval_heads"] and len(heads) == 3
    assert set(config["retrieval_heads"]) <= {"1", "3"}  # MLA layers have none to offer
    assert len(found["without_head"]) == 4
    check_what_a_selection_depends_on(tmp_path, recipe)


def check_what_a_selection_depends_on(tmp_path, recipe):
    # composing with other values beyond the window is not the search's matter, another window is
    same = run(recipe, "compose.retrieval_key_dim=4")
    assert same.returncode == 0 and "select: done before" in same.stderr, same.stderr
    record = tmp_path / "out/stages/select.json"
    own = json.loads(record.read_text())
    own["options"] = {k: v for k, v in own["options"].items() if not k.startswith("compose.")}
    record.write_text(json.dumps(own))  # as earlier versions wrote it
    old = run(recipe)
    assert old.returncode == 0 and "select: done before" in old.stderr, old.stderr
    assert run(recipe, "select.count=2").returncode == 0
    other = run(recipe, "select.count=2", "compose.window=5")
    assert other.returncode == 0 and "select: to be made again: compose.window was 6, is 5" in other.stderr, other.stderr
    assert json.loads((tmp_path / "out/select.json").read_text())["window"] == 5
    fewer = run(recipe, "select.count=2", "compose.window=5", "compose.mla_layers=1,2")
    assert fewer.returncode == 0 and "select: to be made again: compose.mla_layers" in fewer.stderr, fewer.stderr


def test_the_packed_student_is_what_is_measured(tmp_path):
    text = make_text(tmp_path)
    recipe = tmp_path / "packed.yaml"
    recipe.write_text(f"output: {tmp_path / 'out'}\nteacher: {ROOT / 'tests/golden/llama'}\nprecision: f32\n"
                      "compose: {default_kind: sliding_window, window: 6, sinks: 2}\nquantize: {type: q4_0}\n"
                      f"eval: {{tasks: '', text: {text}, text_tokens: 256, sequence_length: 64}}\nreport:\n")
    done = run(recipe)
    assert done.returncode == 0, done.stderr
    student = json.loads((tmp_path / "out/report.json").read_text())["student"]
    assert student["kv_percent"] == 0 and student["state_bytes"] == 4 * 4 * 2 * 2 * 16 * 8  # not only where speed is measured
    tensors = json.loads((tmp_path / "out/student.json").read_text())["tensors"]
    assert "Q4_0" in {t["to"] for t in tensors}
    kl = json.loads((tmp_path / "out/eval/student-perplexity.json").read_text())["kl_to_teacher"]
    wide = run(recipe, "quantize.type=f32", f"output={tmp_path / 'wide'}")
    assert wide.returncode == 0, wide.stderr
    assert kl > json.loads((tmp_path / "wide/eval/student-perplexity.json").read_text())["kl_to_teacher"]
    for setting in ("quantize.out=x.gguf", "quantize.model=x", "quantize.random=x", "quantize.dry_run=true"):
        refused = run(recipe, setting)
        assert refused.returncode == 5 and "set by the pipeline" in refused.stderr


def test_a_pruned_model_is_distilled(tmp_path):
    text = make_text(tmp_path)
    recipe = tmp_path / "small.yaml"
    stage = f"train: {text}, valid: {text}, sequence_length: 64, valid_tokens: 256"
    recipe.write_text(f"output: {tmp_path / 'out'}\nteacher: {ROOT / 'tests/golden/llama'}\nprecision: f32\n"
                      f"compose: {{default_kind: attention}}\nprune: {{layers: 3, kv_heads: 1, text: {text}, tokens: 512, length: 64, depth_tokens: 128}}\n"
                      f"distill: {{{stage}, tokens: 1280, batch: 2, lr: 1e-3}}\neval: {{tasks: '', text: {text}, text_tokens: 256, sequence_length: 64}}\n"
                      f"bench: {{prefill: 8, decode: 0, tokens: 2, runs: 1}}\nreport:\n")
    done = run(recipe)
    assert done.returncode == 0, done.stderr
    kept = json.loads((tmp_path / "out/pruned.json").read_text())
    assert len(kept["layers"]) == 3 and kept["kv_heads"] == 1 and kept["heads"] == 3 and kept["cache_percent"] == 37.5
    student = json.loads((tmp_path / "out/report.json").read_text())["student"]
    assert student["kv_percent"] == 37.5 and student["parameters"] == kept["parameters"]  # of the teacher's, not of a model of its own size
    logs = [json.loads(l) for l in (tmp_path / "out/distill/log.jsonl").read_text().splitlines()]
    kl = [o["valid_kl"] for o in logs if "valid_kl" in o]
    assert kl[-1] < kl[0]
    again = run(recipe, "eval.text_tokens=128")  # what is measured changes neither the model nor what else is measured
    assert again.returncode == 0 and "== eval\n" in again.stderr, again.stderr
    assert all(f"{stage}: done before" in again.stderr for stage in ("prune", "distill", "bench"))
    check_what_a_measurement_depends_on(tmp_path, recipe)
    check_what_files_hold(text, recipe)


def check_what_files_hold(text, recipe):
    settings = ("eval.text_tokens=128", "distill.precision=f32", "bench.tokens=3", "precision=bf16", "distill.tokens=1408")
    assert "distill: done before" in run(recipe, *settings).stderr
    with text.open("a") as f:  # the same path
        f.write(json.dumps({"input_ids": list(range(3, 90))}) + "\n")
    other = run(recipe, *settings)
    assert other.returncode == 0, other.stderr
    for stage in ("prune: to be made again: text", "distill: to be made again: train", "eval_teacher: to be made again: text"):
        assert f"{stage} (contents) was" in other.stderr, other.stderr
    assert "assemble: done before" in other.stderr and "distill: done before" in run(recipe, *settings).stderr


def test_another_teacher_of_the_same_name(tmp_path):
    teacher, recipe = tmp_path / "teacher", tmp_path / "plain.yaml"
    shutil.copytree(ROOT / "tests/golden/llama", teacher)
    recipe.write_text(f"output: {tmp_path / 'out'}\nteacher: {teacher}\nprecision: f32\ncompose: {{default_kind: sliding_window, window: 6, sinks: 2}}\n")
    assert run(recipe).returncode == 0
    assert "assemble: done before" in run(recipe).stderr
    weights = bytearray((teacher / "model.safetensors").read_bytes())
    weights[-4] ^= 1
    (teacher / "model.safetensors").write_bytes(weights)
    other = run(recipe)
    assert other.returncode == 0 and "assemble: to be made again: the teacher's contents were" in other.stderr, other.stderr
    record = tmp_path / "out/stages/assemble.json"
    own = json.loads(record.read_text())
    del own["teacher_contents"]  # as earlier versions wrote it
    record.write_text(json.dumps(own))
    assert "assemble: done before" in run(recipe).stderr


def check_what_a_measurement_depends_on(tmp_path, recipe):
    settings = ("eval.text_tokens=128", "distill.precision=f32")
    record = tmp_path / "out/stages/bench.json"
    own = json.loads(record.read_text())
    del own["options"]["precision"]  # as earlier versions wrote it
    record.write_text(json.dumps(own))
    old = run(recipe, *settings)
    assert old.returncode == 0 and "bench: done before" in old.stderr, old.stderr
    far = run(recipe, *settings, "bench.tokens=3", "bench.decode=0,300")  # the model was made for 256
    assert far.returncode == 0 and json.loads((tmp_path / "out/bench/student.json").read_text())["results"][-1]["depth"] == 300, far.stderr
    assert run(recipe, *settings, "bench.tokens=3").returncode == 0
    other = run(recipe, *settings, "bench.tokens=3", "precision=bf16")
    assert other.returncode == 0 and 'bench: to be made again: precision was "f32", is "bf16"' in other.stderr, other.stderr
    assert "distill: done before" in other.stderr
    longer = run(recipe, *settings, "bench.tokens=3", "precision=bf16", "distill.tokens=1408")
    assert longer.returncode == 0 and "== distill\n" in longer.stderr and "== eval\n" in longer.stderr, longer.stderr
    assert "eval_teacher: done before" in longer.stderr  # the teacher is as it was


def test_broken_recipes_are_refused(tmp_path):
    text = make_text(tmp_path)
    check_refused(tmp_path, text, "seed: 7", "sead: 7", 'unknown option "sead" (did you mean "seed"?)')
    check_refused(tmp_path, text, "q_rank: 20", "q_rank: many", 'bad.yaml:6: q_rank: expected an integer')
    check_refused(tmp_path, text, "lr: 1e-3", "lr: -1", "lr: expected a number from 0 to 1")
    check_refused(tmp_path, text, "select:", "selekt:", "unknown section")
    check_refused(tmp_path, text, "count: 2", "out: x, count: 2", "set by the pipeline")
    check_refused(tmp_path, text, "epochs: 2", "student: x, epochs: 2", "set by the pipeline")
    check_refused(tmp_path, text, "epochs: 2", "prompt_length: 5000, epochs: 2", "tune: prompt_length: expected less than length")
    check_refused(tmp_path, text, "q_rank: 20", "q_rank: 20, calibration_without: 'decay,gate'", 'compose: calibration_without: expected some of')
    check_refused(tmp_path, text, str(text), "/no/such/text", "no such file")
    check_refused(tmp_path, text, f"output: {tmp_path / 'bad'}", "output:", "bad.yaml: output: expected a path, found none")
    check_refused(tmp_path, text, f"output: {tmp_path / 'bad'}", "output: ~", "bad.yaml:2: output: expected a value, found ~")
    check_refused(tmp_path, text, f"valid: {text.with_name('pairs.jsonl')}", "valid: null", "valid: expected a value, found null")


def test_measuring_stages_are_checked_before_any_work(tmp_path):
    text = make_text(tmp_path)
    recipe = write_recipe(tmp_path, "late", text)
    for setting, said in (("eval.tasks=piqqa", "piqqa"), ("eval.samples=[1]", "samples: expected"), ("recall.tests=nothing", "nothing"),
                          ("recall.distances=12,x", "distances"), ("bench.prefill=8,1k", "bench.prefill: expected integers from 1"), ("bench.decode=x", "bench.decode"),
                          ("generate.tokens=4", "late.yaml: generate.prompts: expected a file, found none"), (f"generate.prompts={text}", f'{text}:1: key "prompt" is missing'),
                          ("tune.train=", "tune.train: expected a file, found none"), ("distill.valid=data/none.jsonl", "distill.valid: \"data/none.jsonl\": no such file; `./run prepare`"),
                          (f"output={text}/below", "is no folder")):
        done = run(recipe, setting)
        assert done.returncode > 0 and said in done.stderr, (setting, done.stderr)
        assert not (tmp_path / "late").exists()


def test_the_heads_seed_is_every_sections_unless_it_has_its_own(tmp_path):
    recipe = write_recipe(tmp_path, "seeds", make_text(tmp_path))
    off = ["align.tokens=0", "distill.tokens=0", "tune.epochs=0"]
    assert run(recipe, *off, "compose.seed=42").returncode == 0
    own = json.loads((tmp_path / "seeds/hybrid/config.json").read_text())
    assert run(recipe, *off, "seed=42", f"output={tmp_path / 'head'}").returncode == 0
    head = json.loads((tmp_path / "head/hybrid/config.json").read_text())
    assert run(recipe, *off, f"output={tmp_path / 'seven'}").returncode == 0
    model = "hybrid/model.safetensors"
    assert json.dumps(own).count('"seed": 42') == json.dumps(head).count('"seed": 42') >= 1
    assert (tmp_path / "seeds" / model).read_bytes() == (tmp_path / "head" / model).read_bytes() != (tmp_path / "seven" / model).read_bytes()


def test_a_result_that_is_gone_is_made_again(tmp_path):
    recipe = write_recipe(tmp_path, "gone", make_text(tmp_path))
    off, out = ["tune.epochs=0"], tmp_path / "gone"
    assert run(recipe, *off).returncode == 0
    student = (out / "student/model.safetensors").read_bytes()
    for name in ("mla", "mamba2", "hybrid"):  # nothing needs them any more
        shutil.rmtree(out / name)
    done = run(recipe, *off)
    assert done.returncode == 0 and not (out / "hybrid").exists() and "gone" not in done.stderr.replace(str(out), ""), done.stderr
    shutil.rmtree(out / "student")
    done = run(recipe, *off)
    assert done.returncode == 0, done.stderr
    assert "distill: to be made again: its result is gone" in done.stderr and (out / "hybrid").exists()
    assert (out / "student/model.safetensors").read_bytes() == student


def stages(recipe, *settings):
    """What --dry-run prints, by stage."""
    said = run(recipe, *settings, "--dry-run")
    assert said.returncode == 0 and not said.stderr, said.stderr
    return dict(line.split("  ", 1) for line in said.stdout.splitlines())


def test_a_dry_run_lists_the_stages_and_writes_nothing(tmp_path):
    recipe = write_recipe(tmp_path, "dry", make_text(tmp_path))
    recipe.write_text(recipe.read_text() + "report:\n")
    off, out, names = ["tune.epochs=0"], tmp_path / "dry", ["compose", "align", "select", "assemble", "distill"]
    fresh = stages(recipe, *off)
    assert list(fresh) == names + ["report"] and {fresh[name].strip() for name in names} == {"to do: not run yet"}
    assert not out.exists()
    assert run(recipe, *off).returncode == 0
    before = {p: p.read_bytes() for p in out.rglob("*") if p.is_file()}
    assert {k: v.strip() for k, v in stages(recipe, *off).items()} == {**dict.fromkeys(names, "done"), "report": "to do: written by every run"}
    changed = stages(recipe, *off, "align.lr=0.002")
    assert [changed[name].strip() for name in names] == ["done", "to do: lr was 0.001, is 0.002"] + 3 * ["to do: the model that it starts from was another"]
    assert {p: p.read_bytes() for p in out.rglob("*") if p.is_file()} == before
    shutil.rmtree(out / "student")
    record = out / "stages/select.json"
    record.write_text(record.read_text().replace("true", "false"))
    changed = stages(recipe, *off)
    assert changed["select"].strip() == "to do: begun before" and changed["distill"].strip() == "to do: its result is gone"
    wrong = run(recipe, "distill.beta1=1", "--dry-run")
    assert wrong.returncode == 5 and "distill: beta1" in wrong.stderr and not wrong.stdout


def test_many_settings(tmp_path):
    recipe = write_recipe(tmp_path, "many", make_text(tmp_path))
    done = run(recipe, *["seed=7"] * 60, "sead=7")
    assert done.returncode > 0 and 'setting "sead=7"' in done.stderr, done.stderr


def test_early_stop_needs_validations(tmp_path):
    recipe = write_recipe(tmp_path, "blind", make_text(tmp_path))
    for settings, said in ((["align.eval_every=0"], "early_stop: expected validations to judge by"),
                           (["align.valid_tokens=0"], "early_stop: expected validations to judge by"),
                           (["distill.valid_tokens=0", "distill.keep_best=true"], "distill: keep_best: expected held-out text")):
        done = run(recipe, *settings)
        assert done.returncode > 0 and said in done.stderr, done.stderr
        assert not (tmp_path / "blind").exists()


def test_settings_replace_the_recipe(tmp_path):
    text = make_text(tmp_path)
    recipe = write_recipe(tmp_path, "set", text)
    out = tmp_path / "elsewhere"
    done = run(recipe, f"output={out}", "align.tokens=0", "distill.tokens=0", "tune.epochs=0", "select.count=1")
    assert done.returncode == 0, done.stderr
    assert (out / "hybrid/model.safetensors").exists() and not (out / "student").exists()
    assert not (out / "mla-aligned").exists()
    kept = (out / "recipe.yaml").read_text()
    assert kept.startswith(recipe.read_text()) and "# set: select.count=1" in kept
    assert len(json.loads((out / "select.json").read_text())["layers"]) == 1


def test_hostile_settings(tmp_path):
    recipe = write_recipe(tmp_path, "bad", make_text(tmp_path))
    for setting, expected in (("distill.tokens", "SECTION.KEY=VALUE"), ("=3", "SECTION.KEY=VALUE"), ("nothing.tokens=3", "unknown section"),
                              ("distill.nothing=3", "nothing"), ("distill.tokens=many", "many"), ("compose.out=x", "set by the pipeline"), ("compose.teacher=x", "compose.teacher: set by the pipeline"),
                              ("compose.mla_from=x", "compose.mla_from: set by the pipeline"), ("select.mla=x", "select.mla: set by the pipeline"),
                              ("eval.teacher=x", "eval.teacher: set by the pipeline"), ("eval.perplexity_out=x", "eval.perplexity_out: set by the pipeline"),
                              ("output=", "output: expected a path, found none"), (b"title=caf\xe9", 'setting "title=caf", byte 10: expected one line of UTF-8'), ("title=a\nb", 'setting "title=a", byte 8'),
                              ("teacher=", "teacher: expected a path, found none"),
                              ("align.dry_run=true", "set by the pipeline"), ("distill.dry_run=true", "set by the pipeline"), ("tune.dry_run=true", "set by the pipeline")):
        done = run(recipe, setting)
        assert done.returncode and expected in done.stderr and len(done.stderr.strip().splitlines()) == 1, (setting, done.stderr)
    assert not (tmp_path / "bad").exists()
