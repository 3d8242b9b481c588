#!/usr/bin/env python3
"""Makes tests/golden/lm-eval-rules: what lm-eval 0.4.13 makes of a few rows written for this purpose.

Needs `pip install lm-eval==0.4.13`. The harness's own task files are used, with the data set replaced by
local rows, and a model that answers by a digest of the text: prompts, few-shot draws, filters, metrics
and errors are the harness's, no language model is involved. Writes for each task its rows, the pool of
examples, and what was asked, answered and scored.
"""

import hashlib
import json
import sys
import tempfile
from pathlib import Path

import lm_eval
from lm_eval.api.model import LM
from lm_eval.tasks import TaskManager

OUT = Path(__file__).resolve().parent / "lm-eval-rules"
TASKS = Path(lm_eval.__file__).parent / "tasks"

REPLIES = [" 3 boxes of 4 are 12.\n#### 12", " The answer is $1,234.50.", "no number here",
           " First 7, then 8.\n#### 8.\n\nQuestion: and 9?"]


class Digest(LM):
    def __init__(self):
        super().__init__()
        self.written = 0

    @staticmethod
    def value(*texts):
        digest = hashlib.sha256("\0".join(texts).encode()).digest()
        return -int.from_bytes(digest[:3], "big") / 1e6, digest[3] % 2 == 0

    def loglikelihood(self, requests):
        return [self.value(*r.args) for r in requests]

    def loglikelihood_rolling(self, requests):
        return [10 * self.value(*r.args)[0] for r in requests]

    def generate_until(self, requests):
        out = []
        for r in requests:
            text = REPLIES[self.written % len(REPLIES)]
            self.written += 1
            for stop in r.args[1]["until"]:
                text = text.split(stop)[0]
            out.append(text)
        return out


def race():
    problems = [
        [{"question": "What did the keeper's boy count?", "answer": "B", "options": ["Ships", "Gulls", "Lamps", 'The "old" stairs']},
         {"question": "The lamp was lit  _  .", "answer": "D", "options": ["at noon", "never", "by the boy", "at dusk"]},
         {"question": "Which title fits?", "answer": "A", "options": ["The Lamp", "The Sea", "A Boy's Day", "Stairs\nand Lamps"]}],
        [{"question": "Who wrote the letter  _  .", "answer": "C", "options": ["Ann", "Bob", "Cleo", "Dan"]}],
    ]
    articles = ["The keeper lit the lamp at dusk.\nHis boy counted gulls.", "Cleo’s letter came late."]
    return [{"example_id": f"high{i}.txt", "article": a, "problems": repr(p)} for i, (a, p) in enumerate(zip(articles, problems))], []


def truthful():
    rows = []
    for i, (q, yes, no) in enumerate([("What is snow?", ["Frozen water.", "Ice crystals."], ["Salt.", "Sugar.", "Dust."]),
                                      ("Can fish read?", ["No."], ["Yes.", "Only at night."]),
                                      ("Is tea a metal?", ["No, it is a plant's leaf.", "No."], ["Yes."])]):
        rows.append({"question": q, "mc1_targets": {"choices": yes[:1] + no, "labels": [1] + [0] * len(no)},
                     "mc2_targets": {"choices": yes + no, "labels": [1] * len(yes) + [0] * len(no)}})
    return rows, []


def gsm8k():
    def row(i):
        return {"question": f"Tom has {i} boxes with 4 pens each. How many pens?", "answer": f"{i} boxes of 4 are <<{i}*4={4 * i}>>{4 * i}.\n#### {4 * i}"}
    rows = [row(3), {"question": "What costs the lot?", "answer": "It costs $1,234.50.\n#### 1,234.50"}, row(5), row(2)]
    return rows, [row(100 + i) for i in range(40)]


def lambada():
    texts = ["the dog ran after the cat until it could no longer see the cat", "“wait,” she said, and he could only wait",
             "there were two  spaces before the  end", "a single line about rain and more rain"]
    return [{"text": t} for t in texts], []


def wikitext():
    pages = [" \n = Lamp = \n \n A lamp ( or light ) costs 1 @,@ 000 @-@ odd coins ; it 's \" bright \" . It was 5 @.@ 5 ° C ; the keepers ' boy slept . \n N lamps ! \n",
             " = = Sea = = \n \n [ wide ] and { deep } , said ' she ' : yes ? no . A ( lone bracket stays , / ' 5/ too\n"]
    return [{"page": p} for p in pages], []


def piqa():
    def row(i):
        return {"goal": f"open jar number {i}", "sol1": f"turn the lid {i} times", "sol2": f"paint the lid in colour {i}", "label": i % 2}
    return [row(i) for i in range(4)], [row(i) for i in range(2, 12)]


def arc():
    def row(i):
        return {"id": f"q{i}", "question": f"Which is the number {i}?", "choices": {"text": [str(i + k) for k in range(4)], "label": ["A", "B", "C", "D"]}, "answerKey": "A" if i % 3 else "C"}
    return [row(i) for i in range(3)], [row(100 + i) for i in range(150)]


def winogrande():
    def row(i):
        return {"sentence": f"The cup did not fit the box because _ was too large for plan {i}.", "option1": "the cup", "option2": "the box", "answer": str(i % 2 + 1)}
    return [row(i) for i in range(3)], [row(50 + i) for i in range(30)]


def hellaswag():
    def row(i):
        return {"ind": i, "activity_label": "Lamp care", "ctx_a": f"[header] Lamp {i} [title] Clean  it.", "ctx_b": "the Keeper", "ctx": "", "endings": [f"wipes it {k} times. [step] Done" for k in range(4)], "source_id": f"x{i}", "split": "val", "split_type": "indomain", "label": str(i % 4)}
    return [row(i) for i in range(3)], [row(20 + i) for i in range(25)]


# name: the harness's file, rows, shots, split names of rows and pool
SETS = {
    "race": ("race/race.yaml", race, None, "test"),
    "truthfulqa_mc2": ("truthfulqa/truthfulqa_mc2.yaml", truthful, None, "validation"),
    "gsm8k": ("gsm8k/gsm8k.yaml", gsm8k, None, "test"),
    "lambada_openai": ("lambada/lambada_openai.yaml", lambada, None, "test"),
    "wikitext": ("wikitext/wikitext.yaml", wikitext, None, "test"),
    "piqa": ("piqa/piqa.yaml", piqa, 3, "validation"),
    "arc_challenge": ("arc/arc_easy.yaml", arc, 25, "test"),
    "winogrande": ("winogrande/default.yaml", winogrande, 5, "validation"),
    "hellaswag": ("hellaswag/hellaswag.yaml", hellaswag, 2, "validation"),
}


def write_lines(path, rows):
    path.write_text("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows), encoding="utf-8")


def run(name, tmp):
    source, make, shots, split = SETS[name]
    rows, pool = make()
    files = {split: str(tmp / f"{name}.jsonl")}
    write_lines(tmp / f"{name}.jsonl", rows)
    if pool:
        files["train"] = str(tmp / f"{name}_train.jsonl")
        write_lines(tmp / f"{name}_train.jsonl", pool)
    lines = [f"include: {TASKS / source}", f"task: z_{name}", "dataset_path: json", "dataset_name: null",
             f"dataset_kwargs: {{data_files: {json.dumps(files)}}}"]
    if not pool:
        lines.append("training_split: null")
    if name == "wikitext":
        lines.append("validation_split: null")
    (tmp / f"z_{name}.yaml").write_text("\n".join(lines) + "\n")
    manager = TaskManager(include_path=str(tmp), include_defaults=False)
    result = lm_eval.simple_evaluate(model=Digest(), tasks=[f"z_{name}"], num_fewshot=shots, task_manager=manager, log_samples=True)
    scores = {k: v for k, v in result["results"][f"z_{name}"].items() if "," in k}
    samples = []
    for s in result["samples"][f"z_{name}"]:
        keep = {k: s[k] for k in ("doc_id", "target", "arguments", "resps", "filtered_resps", "filter", "metrics", "doc_hash", "prompt_hash", "target_hash")}
        keep |= {m: s[m] for m in s["metrics"]}
        samples.append(keep)
    out = {"task": name, "num_fewshot": result["n-shot"][f"z_{name}"], "rows": rows, "pool": pool, "scores": scores, "samples": samples}
    (OUT / f"{name}.json").write_text(json.dumps(out, indent=1, ensure_ascii=False, default=float) + "\n", encoding="utf-8")
    print(name, scores)


def main():
    OUT.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as tmp:
        for name in sys.argv[1:] or SETS:
            run(name, Path(tmp))


if __name__ == "__main__":
    main()
