"""Makes the GGUF fixtures with the `gguf` package.

Run: pip install numpy gguf safetensors; python tests/format/gguf/make_gguf.py
kinds.gguf  every kind of key, and small tensors of several types, one with four dimensions
llama.gguf  tests/golden/llama as a converter would write it: f32, rows of attn_q and attn_k permuted for
            adjacent rotary pairs (new row 2i + s of a head <- old row s*hd/2 + i)
"""
import json
import pathlib

import numpy as np
from gguf import GGMLQuantizationType as T
from gguf import GGUFValueType as V
from gguf import GGUFWriter, quants
from safetensors.numpy import load_file

here = pathlib.Path(__file__).parent
rng = np.random.default_rng(7)


def finish(w):
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


def kinds():
    w = GGUFWriter(here / "kinds.gguf", "test")
    for name in ("uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64"):
        v = -5 if name[0] == "i" else 200
        getattr(w, "add_" + name)("int." + name, v)
    w.add_uint64("int.huge", 2**63)
    w.add_float32("real.f32", 1.5)
    w.add_float64("real.f64", 0.1)
    w.add_bool("flag.yes", True)
    w.add_bool("flag.no", False)
    w.add_string("text", "gr\u00fc\u00dfe")
    w.add_array("list.text", ["a", "", "\u20ac b"])
    w.add_array("list.int", [3, -1, 70000])
    w.add_array("list.bool", [True, False, True])
    w.add_array("list.real", [0.5, 2.0])
    w.add_key_value("list.nested", [[1, 2], [3]], V.ARRAY)
    w.add_tensor("f32", np.arange(6, dtype=np.float32).reshape(2, 3))
    w.add_tensor("f16", np.arange(5, dtype=np.float16))
    w.add_tensor("four", np.arange(24, dtype=np.int32).reshape(2, 3, 1, 4))
    x = rng.standard_normal((4, 64)).astype(np.float32)
    for t in (T.Q8_0, T.Q4_1, T.BF16):
        w.add_tensor(t.name.lower(), quants.quantize(x, t), raw_dtype=t)
    finish(w)


def permute(w, heads):
    return w.reshape(heads, 2, w.shape[0] // heads // 2, w.shape[1]).swapaxes(1, 2).reshape(w.shape)


def llama():
    src = here.parent.parent / "golden" / "llama"
    c = json.loads((src / "config.json").read_text())
    heads, kv, hd = c["num_attention_heads"], c["num_key_value_heads"], c["head_dim"]
    w = GGUFWriter(here / "llama.gguf", "llama")
    w.add_vocab_size(c["vocab_size"])
    w.add_context_length(c["max_position_embeddings"])
    w.add_embedding_length(c["hidden_size"])
    w.add_block_count(c["num_hidden_layers"])
    w.add_feed_forward_length(c["intermediate_size"])
    w.add_head_count(heads)
    w.add_head_count_kv(kv)
    w.add_key_length(hd)
    w.add_value_length(hd)
    w.add_rope_dimension_count(hd)
    w.add_rope_freq_base(c["rope_theta"])
    w.add_layer_norm_rms_eps(c["rms_norm_eps"])
    w.add_file_type(0)
    names = {"input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm", "mlp.gate_proj": "ffn_gate",
             "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down", "self_attn.q_proj": "attn_q",
             "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output"}
    for key, v in load_file(src / "model.safetensors").items():
        part = key.removeprefix("model.").removesuffix(".weight")
        if part.startswith("layers."):
            _, n, part = part.split(".", 2)
            if part == "self_attn.q_proj":
                v = permute(v, heads)
            if part == "self_attn.k_proj":
                v = permute(v, kv)
            name = f"blk.{n}.{names[part]}.weight"
        else:
            name = {"embed_tokens": "token_embd.weight", "norm": "output_norm.weight"}[part]
        w.add_tensor(name, np.ascontiguousarray(v))
    finish(w)


kinds()
llama()
