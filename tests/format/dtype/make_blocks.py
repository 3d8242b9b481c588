"""Makes blocks.safetensors: packed blocks and their values by the `gguf` package, and roundings by numpy.

Run: pip install numpy gguf safetensors; python tests/format/dtype/make_blocks.py
Content: <TYPE>.packed (U8) and <TYPE>.values (F32) of 1024 elements; round.f32 with round.f16 and round.bf16 (bits as U8).
"""
import pathlib

import numpy as np
from gguf import GGML_QUANT_SIZES, quants
from gguf import GGMLQuantizationType as T
from safetensors.numpy import save_file

rng = np.random.default_rng(20240817)
out = {}
N = 1024

x = (rng.standard_normal(N) * np.exp(rng.standard_normal(N))).astype(np.float32)
for t in (T.Q8_0, T.Q4_0, T.Q4_1, T.Q5_0, T.Q5_1):
    out[t.name + ".packed"] = quants.quantize(x, t)


def random_blocks(random, t, *scales):
    """The package cannot quantise to most of these: any bytes are a valid block, only the f16 at `scales` must be ordinary numbers."""
    elements, size = GGML_QUANT_SIZES[t]
    blocks = random.integers(0, 256, (N // elements, size), dtype=np.uint8)
    for at in scales:
        s = random.uniform(-0.1, 0.1, N // elements).astype(np.float16)
        blocks[:, at:at + 2] = s.view(np.uint8).reshape(-1, 2)
    out[t.name + ".packed"] = blocks.reshape(-1)


for t, scales in ((T.Q4_K, (0, 2)), (T.Q5_K, (0, 2)), (T.Q6_K, (208,))):
    random_blocks(rng, t, *scales)
# random numbers of their own, so that the roundings below stay as they are
more = np.random.default_rng(20250611)
for t, scales in ((T.Q2_K, (80, 82)), (T.Q3_K, (108,)), (T.IQ4_NL, (0,)), (T.IQ4_XS, (0,)), (T.TQ1_0, (52,)), (T.TQ2_0, (64,))):
    random_blocks(more, t, *scales)
for name in list(out):
    out[name.replace("packed", "values")] = quants.dequantize(out[name], T[name.split(".")[0]])

# Roundings: any bit pattern, ordinary sizes, the subnormal range of f16, ties, and its limits.
f = np.concatenate([
    rng.integers(0, 2**32, 600, dtype=np.uint32).view(np.float32),
    (rng.standard_normal(600) * 10.0 ** rng.integers(-9, 6, 600)).astype(np.float32),
    ((np.arange(200) + 0.5) * 2.0**-24).astype(np.float32),
    (np.arange(1024, 1224) + 0.5).astype(np.float32) * np.float32(2),
    np.array([0.0, -0.0, 65504, 65519.996, 65520, -65520, 1e30, np.inf, -np.inf, 2.0**-25, 2.0**-24, 2.0**-14,
              6.1005e-05, 1.00390625, 1.01171875, 3.3895314e38, 3.4e38], np.float32),
]).astype(np.float32)
f = f[~np.isnan(f)]
with np.errstate(over="ignore"):
    out["round.f16"] = f.astype(np.float16).view(np.uint8)
out["round.f32"] = f
out["round.bf16"] = quants.quantize(f, T.BF16).reshape(-1)
save_file(out, pathlib.Path(__file__).parent / "blocks.safetensors")
