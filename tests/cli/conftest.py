"""What the tests of commands share."""

import json
import signal
import struct
from pathlib import Path

import numpy as np
import pytest

# A shell that runs the tests in the background has Ctrl-C ignored, nohup ends of the line as well, and programs inherit that; what has a
# handler here is as usual there.
signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN:
    signal.signal(signal.SIGHUP, lambda *_: None)


@pytest.fixture
def tensors():
    """The tensors of a safetensors file, by name."""
    def read(path):
        raw = Path(path).read_bytes()
        n = struct.unpack("<Q", raw[:8])[0]
        kinds = {"F32": np.float32, "I32": np.int32}
        out = {}
        for name, t in json.loads(raw[8:8 + n]).items():
            if name != "__metadata__" and t["dtype"] in kinds:
                a, b = t["data_offsets"]
                out[name] = np.frombuffer(raw[8 + n + a:8 + n + b], kinds[t["dtype"]]).reshape(t["shape"])
        return out
    return read


@pytest.fixture
def text(tmp_path):
    """A file of 60 documents of 20 to 138 ids that the tiny golden models know."""
    path = tmp_path / "text.jsonl"
    with path.open("w") as f:
        for d in range(60):
            f.write(json.dumps({"input_ids": [3 + (d * 31 + i * i * 7) % 94 for i in range(20 + 2 * d)]}) + "\n")
    return str(path)
