"""What the tests of commands share."""

import json

import pytest


@pytest.fixture
def text(tmp_path):
    """A file of 60 documents of 20 to 138 ids that the tiny golden models know."""
    path = tmp_path / "text.jsonl"
    with path.open("w") as f:
        for d in range(60):
            f.write(json.dumps({"input_ids": [3 + (d * 31 + i * i * 7) % 94 for i in range(20 + 2 * d)]}) + "\n")
    return str(path)
