"""Plain PyTorch versions of teacher and student, shared by torch_distill.py and torch_align.py.

The shapes come from the folder of a composed student (config.json, hybrid_config.json); weights are random, since only time is measured.
Attention is torch's scaled_dot_product_attention; MLA is expanded; Mamba2 is the chunked form (chunks of 64, batched matrix products, the
recurrence between chunks as one product with a decay matrix), convolution by torch's conv1d, norms by torch's rms_norm. What PyTorch users on a
CPU have without kernels of their own.
"""
import argparse
import json
import os
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

CHUNK = 64


def rope_tables(length, dim, theta):
    f = theta ** (-torch.arange(0, dim, 2).float() / dim)
    angle = torch.outer(torch.arange(length).float(), f)
    return angle.cos(), angle.sin()


def rotate_halves(x, cos, sin):
    a, b = x.chunk(2, -1)
    return torch.cat((a * cos - b * sin, b * cos + a * sin), -1)


def heads(x, n):
    return x.view(x.shape[0], x.shape[1], n, -1).transpose(1, 2)


def attend(q, k, v, scale=None):
    y = F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=scale, enable_gqa=q.shape[1] != k.shape[1])
    return y.transpose(1, 2).flatten(2)


class Attention(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.H, self.G, d = c["H"], c["G"], c["dh"]
        self.q = nn.Linear(c["D"], self.H * d, bias=False)
        self.k = nn.Linear(c["D"], self.G * d, bias=False)
        self.v = nn.Linear(c["D"], self.G * d, bias=False)
        self.o = nn.Linear(self.H * d, c["D"], bias=False)
        self.theta, self.d = c["theta"], d

    def forward(self, x):
        cos, sin = rope_tables(x.shape[1], self.d, self.theta)
        q, k = rotate_halves(heads(self.q(x), self.H), cos, sin), rotate_halves(heads(self.k(x), self.G), cos, sin)
        v = heads(self.v(x), self.G)
        return self.o(attend(q.to(v.dtype), k.to(v.dtype), v))


class Mla(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.c, H, h = c, c["H"], c["hybrid"]
        ranks = next(iter(h.get("layer_rank_list", {}).values()), {"q_rank": h["q_lora_rank"], "kv_rank": h["kv_lora_rank"]})
        self.H, self.dn, self.dr, self.dv, self.r = H, h["qk_nope_head_dim"], h["qk_rope_head_dim"], h["v_head_dim"], ranks["kv_rank"]
        self.G = H if h["use_full_kv_head"] else c["G"]
        self.qa = nn.Linear(c["D"], ranks["q_rank"], bias=False)
        self.qb = nn.Linear(ranks["q_rank"], H * (self.dn + self.dr), bias=False)
        self.kva = nn.Linear(c["D"], self.r + self.dr, bias=False)
        self.kvb = nn.Linear(self.r, self.G * (self.dn + self.dv), bias=False)
        self.o = nn.Linear(H * self.dv, c["D"], bias=False)

    def forward(self, x):
        cos, sin = rope_tables(x.shape[1], self.dr, self.c["theta"])
        q_nope, q_pe = heads(self.qb(self.qa(x)), self.H).split([self.dn, self.dr], -1)
        latent, pe = self.kva(x).split([self.r, self.dr], -1)
        k_nope, v = heads(self.kvb(latent), self.G).split([self.dn, self.dv], -1)
        pe = rotate_halves(pe.unsqueeze(1), cos, sin).to(v.dtype)
        q = torch.cat((q_nope, rotate_halves(q_pe, cos, sin).to(v.dtype)), -1)
        k = torch.cat((k_nope, pe.expand(-1, self.G, -1, -1)), -1)
        return self.o(attend(q, k, v, (self.dn + self.dr) ** -0.5))


def segment_sums(a):
    """[..., Q] -> [..., Q, Q]: sums of a over s+1..t, -inf above the diagonal."""
    c = a.cumsum(-1)
    d = c.unsqueeze(-1) - c.unsqueeze(-2)
    return d.masked_fill(torch.ones(a.shape[-1], a.shape[-1], dtype=torch.bool).triu(1), -torch.inf)


def scan(x, B, C, delta, A):
    """x, B, C [b, H, T, d], delta [b, H, T] -> y; T a multiple of the chunk."""
    b, H, T, d = x.shape
    n = T // CHUNK
    x, B, C = ((t * s).view(b, H, n, CHUNK, d) for t, s in ((x, delta.unsqueeze(-1)), (B, 1), (C, 1)))
    a = (delta * A.view(1, H, 1)).view(b, H, n, CHUNK)
    total = a.cumsum(-1)
    inside = (C @ B.transpose(-1, -2)) * segment_sums(a).exp()
    y = inside @ x
    states = (B * (total[..., -1:] - total).exp().unsqueeze(-1)).transpose(-1, -2) @ x
    decay = segment_sums(F.pad(total[..., -1], (1, 0))).exp()
    states = torch.cat((torch.zeros_like(states[:, :, :1]), states), 2)
    before = torch.einsum("bhzc,bhcij->bhzij", decay, states)[:, :, :-1]
    return (y + (C * total.exp().unsqueeze(-1)) @ before).view(b, H, T, d)


class Mamba2(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.H, self.G, self.d = c["H"], c["G"], c["dh"]
        self.inner, self.x = self.H * self.d, self.G * self.d
        channels = self.inner + 2 * self.x
        self.win = nn.Linear(c["D"], self.inner + channels + self.H, bias=False)
        self.conv = nn.Conv1d(channels, channels, 4, groups=channels, padding=3)
        self.dt_bias = nn.Parameter(torch.full((self.H,), -1.0))
        self.a_log = nn.Parameter(torch.zeros(self.H))
        self.skip = nn.Parameter(torch.ones(self.H))
        self.norm = nn.Parameter(torch.ones(self.inner))
        self.out = nn.Linear(self.inner, c["D"], bias=False)
        self.channels = channels

    def forward(self, u):
        b, T, _ = u.shape
        z, xbc, dt = self.win(u).split([self.inner, self.channels, self.H], -1)
        xbc = F.silu(self.conv(xbc.transpose(1, 2))[..., :T]).transpose(1, 2)
        x, B, C = xbc.split([self.x, self.x, self.inner], -1)
        per = self.H // self.G
        x, B = (heads(t, self.G).repeat_interleave(per, 1).float() for t in (x, B))
        delta = F.softplus(dt.float() + self.dt_bias).transpose(1, 2)
        y = scan(x, B, heads(C, self.H).float(), delta, -self.a_log.exp()) + self.skip.view(1, -1, 1, 1) * x
        y = (y.transpose(1, 2).flatten(2) * F.silu(z.float())).view(b, T, self.H, self.d)
        y = F.rms_norm(y, (self.d,), eps=1e-5).flatten(2) * self.norm
        return self.out(y.to(u.dtype))


class Layer(nn.Module):
    def __init__(self, c, kind):
        super().__init__()
        self.eps = c["eps"]
        self.norm1, self.norm2 = nn.Parameter(torch.ones(c["D"])), nn.Parameter(torch.ones(c["D"]))
        self.mixer = {"attention": Attention, "mla": Mla, "mamba2": Mamba2}[kind](c)
        self.gate = nn.Linear(c["D"], c["F"], bias=False)
        self.up = nn.Linear(c["D"], c["F"], bias=False)
        self.down = nn.Linear(c["F"], c["D"], bias=False)

    def forward(self, x):
        m = self.mixer(F.rms_norm(x, x.shape[-1:], self.norm1, self.eps))
        x = x + m
        u = F.rms_norm(x, x.shape[-1:], self.norm2, self.eps)
        return x + self.down(F.silu(self.gate(u)) * self.up(u)), m


class Model(nn.Module):
    def __init__(self, c, kinds):
        super().__init__()
        self.embed = nn.Embedding(c["V"], c["D"])
        self.layers = nn.ModuleList(Layer(c, k) for k in kinds)
        self.norm = nn.Parameter(torch.ones(c["D"]))
        self.eps = c["eps"]
        nn.init.normal_(self.embed.weight, std=0.02)

    def states(self, ids):
        """Input of each layer and the last output, and the mixers' outputs."""
        x, hidden, mixed = self.embed(ids), [], []
        for layer in self.layers:
            hidden.append(x)
            x, m = layer(x)
            mixed.append(m)
        return hidden + [x], mixed

    def forward(self, ids):
        x = self.states(ids)[0][-1]
        return F.linear(F.rms_norm(x, x.shape[-1:], self.norm, self.eps), self.embed.weight)


def read_shapes(folder):
    base, hybrid = (json.loads((Path(folder) / n).read_text()) for n in ("config.json", "hybrid_config.json"))
    H = base["num_attention_heads"]
    c = {"D": base["hidden_size"], "F": base["intermediate_size"], "V": base["vocab_size"], "L": base["num_hidden_layers"], "H": H,
         "G": base["num_key_value_heads"], "dh": base.get("head_dim") or base["hidden_size"] // H, "eps": base["rms_norm_eps"],
         "theta": base.get("rope_theta", 10000.0), "hybrid": hybrid}
    mla, kept = set(hybrid.get("mla_layers", [])), set(hybrid.get("attn_layers", hybrid.get("attention_layers", [])) or [])
    kinds = ["attention" if i in kept else "mla" if i in mla else "mamba2" for i in range(c["L"])]
    return c, kinds


def arguments(about):
    p = argparse.ArgumentParser(description=about)
    p.add_argument("--student", required=True, help="folder of a composed student: its shapes are used")
    p.add_argument("--rows", type=int, default=4)
    p.add_argument("--length", type=int, default=512)
    p.add_argument("--steps", type=int, default=2, help="after one that is not counted")
    p.add_argument("--threads", type=int, default=os.cpu_count())
    p.add_argument("--precision", choices=["f32", "bf16"], default="f32", help="bf16: autocast")
    a = p.parse_args()
    torch.manual_seed(1)
    torch.set_num_threads(a.threads)
    if a.length % CHUNK:
        p.error(f"--length: expected a multiple of {CHUNK}")
    return a


def autocast(a):
    return torch.autocast("cpu", torch.bfloat16, enabled=a.precision == "bf16")


def measure(a, step, **more):
    seconds = []
    for i in range(a.steps + 1):
        start = time.perf_counter()
        step()
        if i:
            seconds.append(time.perf_counter() - start)
    best = min(seconds)
    print(json.dumps({"tokens_per_second": a.rows * a.length / best, "seconds": best, "all_seconds": seconds, "precision": a.precision,
                      "rows": a.rows, "length": a.length, "threads": a.threads, "torch": torch.__version__, **more}))
