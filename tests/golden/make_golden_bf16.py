#!/usr/bin/env python3
"""Reference gradients with bf16 matrix products: every linear map rounds both operands of all three of its products to bf16 and sums exactly,
everything else as in make_golden.py. Writes <model>/bf16.safetensors (logits and gradients) beside that script's output.

    pip install numpy torch safetensors && python3 make_golden_bf16.py
"""
import json
import os

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file

import make_golden as g

HERE = os.path.dirname(os.path.abspath(__file__))


def bf16(x):
    return x.float().bfloat16().double()


class Rounded(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, w):
        ctx.save_for_backward(x, w)
        return bf16(x) @ bf16(w).T

    @staticmethod
    def backward(ctx, dy):
        x, w = ctx.saved_tensors
        n = lambda t: t.reshape(-1, t.shape[-1])
        return bf16(dy) @ bf16(w), bf16(n(dy)).T @ bf16(n(x))


class Functions:
    """torch.nn.functional with another linear."""

    def __getattr__(self, name):
        return getattr(F, name)

    @staticmethod
    def linear(x, w, b=None):
        y = Rounded.apply(x, w)
        return y if b is None else y + b


def main():
    g.F = Functions()
    for name in ("qwen2-bias", "hybrid-packed", "hybrid-yarn-attention"):
        d = os.path.join(HERE, name)
        c = json.load(open(d + "/config.json"))
        h = json.load(open(d + "/hybrid_config.json")) if os.path.exists(d + "/hybrid_config.json") else None
        if h:
            kept = h.get("attention_layers", [])
            h["layer_kinds"] = ["mla" if l in h["mla_layers"] else "attention" if l in kept else "mamba2" for l in range(c["num_hidden_layers"])]
        p = {k: v.double().requires_grad_() for k, v in load_file(d + "/model.safetensors").items()}
        gold = load_file(d + "/golden.safetensors")
        logits, _, _ = g.model(c, h, p, gold["input_ids"].long(), gold["segment"].long())
        loss = F.cross_entropy(logits.reshape(-1, c["vocab_size"]), gold["target"].long().reshape(-1), ignore_index=-100)
        loss.backward()
        out = {"logits": logits, "loss": loss[None], **{f"grad.{k}": v.grad for k, v in p.items()}}
        save_file(g.f32(out), d + "/bf16.safetensors")
        print(name, loss.item())


if __name__ == "__main__":
    main()
