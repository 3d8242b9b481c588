"""Makes the seeds of fuzz/corpus that are not written by hand. Run from the repository root; needs no packages."""
import json
import pathlib
import struct

root = pathlib.Path(__file__).parent.parent
golden, corpus = root / "tests" / "golden", root / "fuzz" / "corpus"


def safetensors(name, header, data):
    (corpus / "safetensors" / name).write_bytes(struct.pack("<Q", len(header)) + header.encode() + data)


def string(s):
    return struct.pack("<Q", len(s)) + s.encode()


def gguf(name, keys, tensors=b"", n=0, data=bytes(96)):
    head = b"GGUF" + struct.pack("<IQQ", 3, n, len(keys)) + b"".join(keys) + tensors
    (corpus / "gguf" / name).write_bytes(head + bytes(-len(head) % 32) + data)


def u32(key, v):
    return string(key) + struct.pack("<II", 4, v)


def f32(key, v):
    return string(key) + struct.pack("<If", 6, v)


safetensors("two", '{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"b":{"dtype":"BF16","shape":[],"data_offsets":[8,10]}}',
            bytes(10))
safetensors("gap", '{"a":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}}', bytes(2))
safetensors("meta", '{"__metadata__":{"format":"pt"}}', b"")
(corpus / "safetensors" / "python").write_bytes((root / "tests/format/safetensors/python.safetensors").read_bytes())

arch = string("general.architecture") + struct.pack("<I", 8) + string("llama")
sizes = [u32("llama." + k, v) for k, v in (
    ("vocab_size", 8), ("context_length", 64), ("embedding_length", 32), ("block_count", 1), ("feed_forward_length", 32),
    ("attention.head_count", 2), ("attention.head_count_kv", 1), ("attention.key_length", 16),
    ("attention.value_length", 16), ("rope.dimension_count", 16))]
sizes += [f32("llama.rope.freq_base", 1e4), f32("llama.attention.layer_norm_rms_epsilon", 1e-5)]
gguf("llama_config", [arch] + sizes)
q = string("w") + struct.pack("<IQQIQ", 2, 32, 2, 3, 0)
b = string("b") + struct.pack("<IQIQ", 1, 3, 0, 64)
gguf("two_tensors", [u32("general.alignment", 32)], q + b, 2)
tensors, data = b"", b""
for type, elements, size in ((10, 256, 84), (11, 256, 110), (20, 32, 18), (23, 256, 136), (34, 256, 54), (35, 256, 66)):
    tensors += string(f"t{type}") + struct.pack("<IQIQ", 1, elements, type, len(data))
    data += bytes(i * 37 % 256 for i in range(size)) + bytes(-size % 32)
gguf("blocks_of_others", [], tensors, 6, data)
nested = string("k") + struct.pack("<IIQ", 9, 9, 1) + struct.pack("<IQ", 8, 1) + string("x")
texts = string("list.text") + struct.pack("<IIQ", 9, 8, 2) + string("a") + string("")
gguf("arrays", [nested, texts])


def text(key, v):
    return string(key) + struct.pack("<I", 8) + string(v)


def ids(key, v):
    return string(key) + struct.pack("<IIQ", 9, 5, len(v)) + struct.pack(f"<{len(v)}i", *v)


embed = string("token_embd.weight") + struct.pack("<IQQIQ", 2, 4, 6, 0, 0)
gguf("llama_ends", [arch] + sizes + [u32("zebra.bos_token_id", 1), ids("zebra.eos_token_ids", [2, 3, 77])], embed, 1)
scaling = [text("llama.rope.scaling.type", "yarn"), u32("llama.rope.scaling.original_context_length", 16)]
scaling += [f32("llama.rope.scaling." + k, v) for k, v in (
    ("factor", 4), ("attn_factor", 1.25), ("yarn_attn_factor", 1.1), ("yarn_beta_fast", 16), ("yarn_beta_slow", 2), ("yarn_ext_factor", 1),
    ("yarn_log_multiplier", 0))]
gguf("llama_yarn", [arch] + sizes + scaling, embed, 1)
hybrid = [text("general.architecture", "zebra")] + [
    text("zebra." + key, (golden / "hybrid" / (file + ".json")).read_text()) for key, file in
    (("config", "config"), ("hybrid_config", "hybrid_config"))]
gguf("zebra_config", hybrid)
gguf("zebra_broken", hybrid[:1] + [text("zebra.config", '{"hidden_size":1e9}'), text("zebra.hybrid_config", "[")])
(corpus / "gguf" / "kinds").write_bytes((root / "tests/format/gguf/kinds.gguf").read_bytes())

for d in ("llama", "llama3-rope-untied", "qwen2-bias", "hybrid", "hybrid-yarn-attention", "mamba2-repeat", "mla-norm-yarn"):
    text = (golden / d / "config.json").read_bytes()
    hybrid = golden / d / "hybrid_config.json"
    if hybrid.exists():
        text += b"\0" + hybrid.read_bytes()
    (corpus / "json_config" / d).write_bytes(text)

windows = json.loads((golden / "hybrid" / "hybrid_config.json").read_text())
windows |= {"mla_layers": [], "sliding_window_layers": [0, 1, 2, 3], "sliding_window": 8, "attention_sinks": 2,
            "retrieval_heads": {"0": [1], "3": [0, 1]}, "retrieval_key_dim": 6, "retrieval_value_dim": 11}
(corpus / "json_config" / "retrieval-heads").write_bytes((golden / "hybrid" / "config.json").read_bytes() + b"\0" + json.dumps(windows).encode())

layer = json.loads((golden / "hybrid" / "hybrid_config.json").read_text())
model = {"n_layer": 4, "attn_layers": [1, 3]}
for key in ("mla_layers", "n_layer", "attn_layers", "use_full_kv_head"):
    layer.pop(key, None)
parts = [(golden / "hybrid" / "config.json").read_bytes(), json.dumps(model).encode(), json.dumps(layer).encode()]
(corpus / "json_config" / "ecomla").write_bytes(b"\0".join(parts))
base = json.loads((golden / "qwen2-bias" / "config.json").read_text())
for name, more in (("mistral", {"model_type": "mistral", "sliding_window": 5, "attention_bias": False}),
                   ("qwen2-windows", {"use_sliding_window": True, "sliding_window": 6, "max_window_layers": 1})):
    (corpus / "json_config" / name).write_bytes(json.dumps(base | more).encode())
