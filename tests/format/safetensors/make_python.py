"""Makes python.safetensors: what the reference library writes, with every type this reader knows.

Run: pip install numpy 'safetensors>=0.8'; python tests/format/safetensors/make_python.py
tests/unit/test_safetensors.c writes the same tensors and expects the same bytes.
"""
import pathlib

import numpy as np
from safetensors import TensorSpec, serialize_file


kept = []  # the library reads the arrays through pointers


def entry(dtype, a):
    kept.append(a)
    return TensorSpec(dtype=dtype, shape=list(a.shape), data_ptr=a.ctypes.data, data_len=a.nbytes)


n = np.arange(6)
serialize_file({
    "w.f32": entry("float32", n.astype(np.float32).reshape(2, 3)),
    "a \"quoted\"\n\u00fc": entry("float32", np.array(2.5, np.float32)),
    "w.f64": entry("float64", n[:2].astype(np.float64)),
    "w.f16": entry("float16", n.astype(np.float16)),
    "w.bf16": entry("bfloat16", (n.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)),
    "w.i64": entry("int64", n[:2].astype(np.int64)),
    "w.i32": entry("int32", n.astype(np.int32).reshape(1, 2, 3)),
    "w.i8": entry("int8", n.astype(np.int8)),
    "w.u8": entry("uint8", n.astype(np.uint8)),
    "w.bool": entry("bool", np.array([True, False, True])),
    "empty": entry("float32", np.zeros((0, 4), np.float32)),
}, pathlib.Path(__file__).parent / "python.safetensors", {"format": "pt"})
