"""What the original code asks of a hybrid's files: its class of hybrid_config.json has fixed fields and checks of ranks and heads."""

import dataclasses
import json
import os
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


PLANS = {
    "mixed": (["--mla-layers", "0,2", "--q-rank", "16", "--kv-rank", "8"], (16, 8)),
    "odd ranks": (["--mla-layers", "0,2", "--q-rank", "20", "--kv-rank", "12", "--lora-norm"], (20, 12)),
    "no low rank": (["--mla-layers", "1", "--q-rank", "0", "--kv-rank", "12", "--rope-type", "yarn", "--rope-factor", "8",
                     "--rope-original", "16"], (None, 12)),
    "grouped heads": (["--default-kind", "mla", "--q-rank", "24", "--kv-rank", "8", "--no-full-kv-head"], (24, 8)),
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
