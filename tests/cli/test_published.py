"""What the original code asks of a hybrid's files: its class of hybrid_config.json has fixed fields and checks of ranks and heads,
and its modules load by name and shape, all of them (strict)."""

import dataclasses
import json
import os
import struct
import subprocess
from typing import Any

import pytest

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
ZEBRA = os.path.join(ROOT, os.environ.get("ZB_BUILD", "build/release"), "src", "cli", "zebra")
TEACHER = os.path.join(ROOT, "tests", "golden", "llama")
FIELDS = """hidden_size intermediate_size hidden_act n_layer mla_layers rms_norm_eps num_attention_heads num_key_value_heads
kv_lora_rank q_lora_rank use_lora_layer_norm use_fixed_rank_for_first_and_last_block use_full_kv_head layer_rank_list
qk_rope_head_dim v_head_dim qk_nope_head_dim q_energy_ratio kv_energy_ratio qkv_rank_divisor max_position_embeddings
rope_theta rope_scaling attention_bias attention_dropout rope_type d_model ssm_cfg d_inner d_xb""".split()
Strict = dataclasses.make_dataclass("Strict", [(name, Any, None) for name in FIELDS])
SSM = {"expand", "ngroups", "d_state", "repeat_kv_before_conv", "headdim"}  # arguments of its Mamba2 layer


def compose(out, *more):
    r = subprocess.run([ZEBRA, "compose", "--teacher", TEACHER, "--out", str(out), "--init", "paper", *more],
                       capture_output=True, text=True, timeout=120,
                       env={**os.environ, "OMP_NUM_THREADS": "2", "OMP_WAIT_POLICY": "passive"})
    assert r.returncode == 0, r.stderr
    return json.loads((out / "config.json").read_text()), json.loads((out / "hybrid_config.json").read_text())


def ranks_of(strict, layer):
    own = strict.layer_rank_list.get(str(layer)) if strict.layer_rank_list else None
    return (own["q_rank"], own["kv_rank"]) if own else (strict.q_lora_rank, strict.kv_lora_rank)


def stored(folder):
    """Names, and shape and bytes of each tensor."""
    raw = (folder / "model.safetensors").read_bytes()
    n = struct.unpack("<Q", raw[:8])[0]
    return {name: (t["shape"], raw[8 + n + t["data_offsets"][0]:8 + n + t["data_offsets"][1]])
            for name, t in json.loads(raw[8:8 + n]).items() if name != "__metadata__"}


def mla_shapes(h, q_rank, kv_rank):
    query, value = h.num_attention_heads * (h.qk_nope_head_dim + h.qk_rope_head_dim), h.num_attention_heads * h.v_head_dim
    heads = h.num_attention_heads if h.use_full_kv_head else h.num_key_value_heads
    out = {"kv_a_proj_with_mqa.weight": [kv_rank + h.qk_rope_head_dim, h.hidden_size],
           "kv_b_proj.weight": [heads * (h.qk_nope_head_dim + h.v_head_dim), kv_rank], "out_proj.weight": [h.hidden_size, value]}
    out |= {"q_a_proj.weight": [q_rank, h.hidden_size], "q_b_proj.weight": [query, q_rank]} if q_rank else {"q_proj.weight": [query, h.hidden_size]}
    if h.use_lora_layer_norm:
        out |= {"kv_a_layernorm.weight": [kv_rank]} | ({"q_a_layernorm.weight": [q_rank]} if q_rank else {})
    return {f"mla.{name}": shape for name, shape in out.items()}


def mamba2_shapes(h):
    heads, channels = h.ssm_cfg["ngroups"], h.d_inner + 2 * (h.d_inner if h.ssm_cfg["repeat_kv_before_conv"] else h.d_xb)
    out = {"in_proj.weight": [2 * h.d_inner + 2 * h.d_xb + heads, h.d_model], "conv1d.weight": [channels, 1, 4], "conv1d.bias": [channels],
           "dt_bias": [heads], "A_log": [heads], "D": [heads], "norm.weight": [h.d_inner], "out_proj.weight": [h.d_model, h.d_inner]}
    return {f"mamba.{name}": shape for name, shape in out.items()}


def shapes(h, vocab):
    """What the original's modules hold. The head is there whatever tie_word_embeddings says: it is tied to embeddings that are
    then replaced, and what no file brings stays random."""
    wide, norm = [h.intermediate_size, h.hidden_size], [h.hidden_size]
    out = {"model.embed_tokens.weight": [vocab, h.hidden_size], "model.norm.weight": norm, "lm_head.weight": [vocab, h.hidden_size]}
    for l in range(h.n_layer):
        layer = mla_shapes(h, *ranks_of(h, l)) if l in h.mla_layers else mamba2_shapes(h)
        layer |= {"input_layernorm.weight": norm, "post_attention_layernorm.weight": norm, "mlp.gate_proj.weight": wide,
                  "mlp.up_proj.weight": wide, "mlp.down_proj.weight": wide[::-1]}
        out |= {f"model.layers.{l}.{name}": shape for name, shape in layer.items()}
    return out


PLANS = {
    "mixed": (["--mla-layers", "0,2", "--q-rank", "16", "--kv-rank", "8"], (16, 8)),
    "odd ranks": (["--mla-layers", "0,2", "--q-rank", "20", "--kv-rank", "12", "--lora-norm"], (20, 12)),
    "no low rank": (["--mla-layers", "1", "--q-rank", "0", "--kv-rank", "12", "--rope-type", "yarn", "--rope-factor", "8",
                     "--rope-original", "16"], (None, 12)),
    "grouped heads": (["--default-kind", "mla", "--q-rank", "24", "--kv-rank", "8", "--no-full-kv-head"], (24, 8)),
    "repeated": (["--mla-layers", "3", "--q-rank", "16", "--kv-rank", "8", "--repeat-before-conv"], (16, 8)),
    "no mla": ([], None),
}


@pytest.mark.parametrize("plan", PLANS)
def test_the_original_takes_the_file(tmp_path, plan):
    args, ranks = PLANS[plan]
    base, hybrid = compose(tmp_path / "m", *([] if "--default-kind" in args else ["--default-kind", "mamba2"]), *args)
    h = Strict(**hybrid)  # refuses any other key
    assert h.qkv_rank_divisor % 8 == 0
    assert h.kv_lora_rank % h.qkv_rank_divisor == 0 and h.q_lora_rank % h.qkv_rank_divisor == 0
    assert h.num_key_value_heads == (h.num_attention_heads if h.use_full_kv_head else base["num_key_value_heads"])
    assert h.num_attention_heads % h.num_key_value_heads == 0
    assert h.rope_scaling is None or (h.rope_scaling["rope_type"] == h.rope_type != "llama3" and h.rope_scaling["factor"])
    assert set(h.ssm_cfg) <= SSM and not h.attention_bias
    assert all(ranks_of(h, layer) == ranks for layer in h.mla_layers)
    assert bool(h.mla_layers) == bool(ranks)
    assert "zebra" not in hybrid
    assert h.d_inner == h.ssm_cfg["ngroups"] * h.ssm_cfg["d_state"] and h.d_inner % h.ssm_cfg.get("headdim", 64) == 0
    tensors = stored(tmp_path / "m")
    assert {name: shape for name, (shape, _) in tensors.items()} == shapes(h, base["vocab_size"])
    assert base["tie_word_embeddings"] and tensors["lm_head.weight"] == tensors["model.embed_tokens.weight"]


def test_what_the_original_cannot_load_has_no_second_head(tmp_path):
    compose(tmp_path / "m", "--default-kind", "mamba2", "--attention-layers", "1")
    assert "lm_head.weight" not in stored(tmp_path / "m")
