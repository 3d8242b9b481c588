"""The public header stands alone, in C11 and C++17, with every warning an error, and its library serves other programs."""
import json
import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
INCLUDE = ROOT / "include"
BUILD = ROOT / os.environ.get("ZB_BUILD", "build/release")


@pytest.mark.parametrize("compiler, language, standard", [("gcc", "c", "c11"), ("gcc", "c", "c17"), ("g++", "c++", "c++17")])
def test_header_compiles_alone(compiler, language, standard):
    program = '#include "zebra.h"\n#include "zebra.h"\nint main(void) { zb_err e; e.code = ZB_OK; return (int)e.code; }\n'
    done = subprocess.run([compiler, "-x", language, f"-std={standard}", "-Wall", "-Wextra", "-Wpedantic", "-Wshadow", "-Wconversion",
                           "-Werror", "-fsyntax-only", "-I", INCLUDE, "-"], input=program, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_header_is_short():
    assert len((INCLUDE / "zebra.h").read_text().splitlines()) <= 250


def test_a_program_runs_a_model_with_the_library(tmp_path):
    """As the README says it: installed, then found by pkg-config."""
    known = json.loads((BUILD / "meson-info/intro-buildoptions.json").read_text())
    checks, prefix, lib = (next(o["value"] for o in known if o["name"] == name) for name in ("b_sanitize", "prefix", "libdir"))
    subprocess.run(["meson", "install", "-C", BUILD, "--no-rebuild", "--destdir", tmp_path], capture_output=True, check=True, timeout=120)
    prefix = f"{tmp_path}{prefix}"
    flags = subprocess.run(["pkg-config", f"--define-variable=prefix={prefix}", "--cflags", "--libs", "zebra"], capture_output=True, text=True,
                           check=True, env=os.environ | {"PKG_CONFIG_PATH": f"{prefix}/{lib}/pkgconfig"}).stdout.split()
    program, model = tmp_path / "program", ROOT / "tests/golden/llama"
    targets = json.loads((BUILD / "meson-info/intro-targets.json").read_text())
    compiler = next(t for t in targets if t["type"] == "executable")["target_sources"][0]["compiler"]
    done = subprocess.run([*compiler, ROOT / "tests/cli/use_library.c", *flags, "-o", program,
                           *([] if checks == "none" else [f"-fsanitize={checks}"])], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    said = subprocess.run([program, model], capture_output=True, text=True, timeout=60)
    assert said.returncode == 0, said.stdout + said.stderr
    same = subprocess.run([BUILD / "src/cli/zebra", "generate", "-m", model, "--prompt-ids", "1,2,3", "-n", "4", "-T", "0", "--ids", "--ignore-eos"],
                          capture_output=True, text=True, timeout=60)
    assert said.stdout == same.stdout and len(said.stdout.split()) == 4
