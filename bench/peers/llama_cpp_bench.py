#!/usr/bin/env python3
"""Speed of llama.cpp on a GGUF file: prompts (ppN) and generation behind a context (tgN @ dD).

Runs in an environment with llama-cpp-python (its low-level binding; no sampling, no text) and prints one
JSON object {"results": [{"test", "depth", "tokens_per_second", "deviation", "setting"}]}: for every test the
better of the settings tried, flash attention off and on, caches in f16 as is its default.

Contexts are not computed but copied: the state of a computed prompt of 256 tokens is written out, its cells
repeated until the depth is reached, and read back. Speed does not depend on the values, and 32k tokens would
take minutes to compute.
"""
import argparse
import json
import statistics
import struct
import sys
import time

import llama_cpp.llama_cpp as ll
import numpy as np

SEED_TOKENS, BATCH = 256, 512


class Reader:
    """Fields of the state's bytes, one after the other."""

    def __init__(self, data):
        self.data, self.at = data, 0

    def take(self, kind):
        value = struct.unpack_from("<" + kind, self.data, self.at)[0]
        self.at += struct.calcsize("<" + kind)
        return value

    def bytes(self, n):
        self.at += n
        return self.data[self.at - n:self.at]


def repeated(block, row, count):
    """`block` holds rows of `row` bytes; as many bytes as `count` rows, repeating them."""
    rows = np.frombuffer(block, np.uint8).reshape(-1, row)
    return np.resize(rows, (count, row)).tobytes()


def stretch_state(data, count):
    """The bytes of a sequence's state with `count` cells, made of those of a shorter one.

    Layout (llama_kv_cache::state_write): magic, sequence, streams, cells; position and sequences of each cell;
    whether values lie transposed, layers; keys of each layer as rows of cells; values likewise, or by element.
    """
    r, out = Reader(data), []
    magic, sequence, streams, cells = r.take("I"), r.take("i"), r.take("I"), r.take("I")
    out.append(struct.pack("<IiII", magic, sequence, streams, count))
    assert streams == 1
    for _ in range(cells):
        r.take("i")
        assert r.take("I") == 1
        r.take("i")
    out += [struct.pack("<iIi", i, 1, sequence) for i in range(count)]
    transposed, layers = r.take("I"), r.take("I")
    out.append(struct.pack("<II", transposed, layers))

    def rows():
        for _ in range(layers):
            kind, size = r.take("i"), r.take("Q")
            out.append(struct.pack("<iQ", kind, size))
            out.append(repeated(r.bytes(cells * size), size, count))
    rows()
    if not transposed:
        rows()
    else:
        for _ in range(layers):
            kind, size, width = r.take("i"), r.take("I"), r.take("I")
            out.append(struct.pack("<iII", kind, size, width))
            for _ in range(width):
                out.append(repeated(r.bytes(cells * size), size, count))
    assert r.at == len(data), "state of an unknown layout"
    return b"".join(out)


class Context:
    def __init__(self, model, tokens_max, threads, flash):
        p = ll.llama_context_default_params()
        p.n_ctx, p.n_batch, p.n_ubatch = tokens_max, BATCH, BATCH
        p.n_threads = p.n_threads_batch = threads
        p.flash_attn_type = 1 if flash else 0
        p.no_perf = True
        self.c = ll.llama_init_from_model(model, p)
        if not self.c:
            raise RuntimeError("llama.cpp made no context")
        self.memory = ll.llama_get_memory(self.c)
        self.vocab = ll.llama_vocab_n_tokens(ll.llama_model_get_vocab(model))
        self.rng = np.random.default_rng(1)
        self.batch = ll.llama_batch_init(BATCH, 0, 1)

    def free(self):
        ll.llama_batch_free(self.batch)
        ll.llama_free(self.c)

    def decode(self, at, n):
        """n random tokens from position `at`; logits of the last."""
        self.batch.n_tokens = n
        for i, token in enumerate(self.rng.integers(0, self.vocab, n)):
            self.batch.token[i] = int(token)
            self.batch.pos[i] = at + i
            self.batch.n_seq_id[i] = 1
            self.batch.seq_id[i][0] = 0
            self.batch.logits[i] = i == n - 1
        if ll.llama_decode(self.c, self.batch) != 0:
            raise RuntimeError(f"llama.cpp cannot decode {n} tokens at {at}")

    def prompt(self, at, n):
        for start in range(0, n, BATCH):
            self.decode(at + start, min(BATCH, n - start))
        ll.llama_synchronize(self.c)

    def back_to(self, depth):
        ll.llama_memory_seq_rm(self.memory, 0, depth, -1)

    def fill(self, depth):
        ll.llama_memory_clear(self.memory, True)
        if depth == 0:
            return
        seed = min(depth, SEED_TOKENS)
        self.prompt(0, seed)
        if depth > seed:
            size = ll.llama_state_seq_get_size(self.c, 0)
            data = (ll.ctypes.c_uint8 * size)()
            ll.llama_state_seq_get_data(self.c, data, size, 0)
            longer = np.frombuffer(stretch_state(bytes(data), depth), np.uint8)
            pointer = longer.ctypes.data_as(ll.ctypes.POINTER(ll.ctypes.c_uint8))
            if ll.llama_state_seq_set_data(self.c, pointer, longer.size, 0) != longer.size:
                raise RuntimeError("llama.cpp refused the state")
        if ll.llama_memory_seq_pos_max(self.memory, 0) != depth - 1:
            raise RuntimeError("llama.cpp holds another context than asked for")

    def timed(self, work, tokens, depth, runs):
        rates = []
        for run in range(runs + 1):
            self.back_to(depth)
            start = time.perf_counter()
            work()
            if run:
                rates.append(tokens / (time.perf_counter() - start))
        return statistics.mean(rates), statistics.stdev(rates) if runs > 1 else 0.0


def measure(model, o, flash):
    prompts, depths = o.prompt, o.depth
    longest = max(prompts + [d + o.tokens for d in depths])
    c = Context(model, (longest + 1 + 255) // 256 * 256, o.threads, flash)
    rows = {}
    c.fill(0)
    for n in prompts:
        rows[f"pp{n}"] = (0, *c.timed(lambda: c.prompt(0, n), n, 0, o.runs))
    for d in depths:
        c.fill(d)

        def steps():
            for i in range(o.tokens):
                c.decode(d + i, 1)
                ll.llama_synchronize(c.c)
        name = f"tg{o.tokens}" + (f" @ d{d}" if d else "")
        rows[name] = (d, *c.timed(steps, o.tokens, d, o.runs))
    c.free()
    return rows


def numbers(text):
    return [int(x) for x in text.split(",") if x]


def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("-m", "--model", required=True)
    p.add_argument("-p", "--prompt", type=numbers, default=[])
    p.add_argument("-d", "--depth", type=numbers, default=[])
    p.add_argument("-n", "--tokens", type=int, default=32)
    p.add_argument("-r", "--runs", type=int, default=3)
    p.add_argument("-t", "--threads", type=int, default=2)
    o = p.parse_args()
    quiet = ll.llama_log_callback(lambda level, text, data: None)
    ll.llama_log_set(quiet, ll.ctypes.c_void_p(0))
    ll.llama_backend_init()
    model = ll.llama_model_load_from_file(o.model.encode(), ll.llama_model_default_params())
    if not model:
        sys.exit(f"llama.cpp cannot load {o.model}")
    best = {}
    for flash in (False, True):
        for test, (depth, mean, deviation) in measure(model, o, flash).items():
            if test not in best or mean > best[test]["tokens_per_second"]:
                best[test] = {"test": test, "depth": depth, "tokens_per_second": mean, "deviation": deviation,
                              "setting": "flash attention" if flash else "no flash attention"}
    print(json.dumps({"engine": "llama.cpp of llama-cpp-python " + __import__("llama_cpp").__version__,
                      "system": ll.llama_print_system_info().decode().strip(), "results": list(best.values())}))


if __name__ == "__main__":
    main()
