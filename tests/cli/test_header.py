"""The public header stands alone, in C11 and C++17, with every warning an error."""
import subprocess
from pathlib import Path

import pytest

INCLUDE = Path(__file__).resolve().parents[2] / "include"


@pytest.mark.parametrize("compiler, language, standard", [("gcc", "c", "c11"), ("gcc", "c", "c17"), ("g++", "c++", "c++17")])
def test_header_compiles_alone(compiler, language, standard):
    program = '#include "zebra.h"\n#include "zebra.h"\nint main(void) { zb_err e; e.code = ZB_OK; return (int)e.code; }\n'
    done = subprocess.run([compiler, "-x", language, f"-std={standard}", "-Wall", "-Wextra", "-Wpedantic", "-Wshadow", "-Wconversion",
                           "-Werror", "-fsyntax-only", "-I", INCLUDE, "-"], input=program, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_header_is_short():
    assert len((INCLUDE / "zebra.h").read_text().splitlines()) <= 250
