"""check-layers, check-limits and count-tests, each on small trees that break one rule at a time."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

TOOLS = Path(__file__).resolve().parents[2] / "tools"


def run(tool, *arguments):
    return subprocess.run([sys.executable, TOOLS / tool, *map(str, arguments)], capture_output=True, text=True)


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


@pytest.mark.parametrize("file,include,wrong", [
    ("model/a.c", "tensor/x.h", None),
    ("model/a.c", "model/x.h", None),
    ("cli/a.c", "base/x.h", None),
    ("cli/a.c", "zebra.h", None),
    ("base/a.c", "kernels/x.h", "upward"),
    ("model/a.h", "train/x.h", "upward"),
    ("model/a.c", "data/x.h", "sideways"),
    ("eval/a.c", "report/x.h", "sideways"),
    ("model/a.c", "zebra.h", "upward"),
    ("model/a.c", "x.h", "with its folder"),
    ("model/a.c", "odd/x.h", "unknown folder"),
    ("odd/a.c", "base/x.h", "not in a known folder"),
])
def test_layers(tmp_path, file, include, wrong):
    write(tmp_path / file, f'/* a */\n#include <stdio.h>\n  #  include "{include}"\n')
    done = run("check-layers", tmp_path)
    assert done.returncode == (1 if wrong else 0), done.stdout
    assert wrong is None or wrong in done.stdout


def test_layers_of_nothing_fail(tmp_path):
    assert run("check-layers", tmp_path).returncode == 1


def body(lines):
    return "/* f */\nint f(int a)\n{\n" + "    a++;\n" * (lines - 4) + "    return a;\n}\n"


@pytest.mark.parametrize("file,text,errors,warnings", [
    ("src/model/a.c", body(70), 0, 0),
    ("src/model/a.c", body(71), 0, 1),
    ("src/model/a.c", body(120), 0, 1),
    ("src/model/a.c", body(121), 1, 0),
    ("src/model/a.c", "/* */\n" + "int x;\n" * 799, 0, 0),
    ("src/model/a.c", "/* */\n" + "int x;\n" * 800, 0, 1),
    ("src/model/a.c", "/* */\n" + "int x;\n" * 1200, 1, 0),
    ("src/model/a.c", "/* */\nint f(int a, int b, int c, int d, int e, int (*f)(int, int), int g) {\n}\n", 0, 0),
    ("src/model/a.c", "/* */\nint f(int a, int b, int c, int d, int e, int f, int g, int h) {\n}\n", 0, 1),
    ("src/model/a.c", "/* */\nint f(" + ", ".join(f"int a{i}" for i in range(11)) + ") {\n}\n", 1, 0),
    ("src/model/a.c", "/* " + "x" * 97 + " */\n", 0, 1),
    ("src/model/a.c", "/* " + "é" * 94 + " */\n", 0, 0),
    ("src/model/a.c", "/* " + "x" * 108 + " */\n", 1, 0),
    ("src/model/a.c", "int x;\n", 1, 0),
    ("tests/a.c", "int x;\n", 0, 0),
    ("src/model/a.c", "/* */\nvoid f(void) { free(p); }\n", 1, 0),
    ("src/model/a.c", "/* */\nvoid f(void) { a->free(p); b.exit(1); zb_free(p); }\n", 0, 0),
    ("src/model/a.c", '/* malloc(1) */\nconst char *s = "exit(1)"; // atoi(x)\n', 0, 0),
    ("src/base/arena.c", "/* */\nvoid f(void) { free(malloc(1)); abort(); }\n", 0, 0),
    ("src/model/a.c", "/* */\nvoid f(void) { printf(s); fprintf(stdout, s); fprintf(stderr, s); }\n", 2, 0),
    ("src/model/a.c", "/* */\nvoid f(void) { fputs(s, stdout); fwrite(s, 1, 2, stdout); }\n", 2, 0),
    ("src/cli/a.c", "/* */\nvoid f(void) { printf(s); exit(1); }\n", 0, 0),
    ("src/cli/a.c", "/* */\nvoid f(void) { sprintf(s, t); atoi(s); }\n", 2, 0),
])
def test_limits(tmp_path, file, text, errors, warnings):
    write(tmp_path / file, text)
    done = run("check-limits", tmp_path)
    assert f" {warnings} warnings, {errors} errors" in done.stdout, done.stdout
    assert done.returncode == (1 if errors else 0)


def records(folder, *tests):
    write(folder / "meson-logs" / "testlog.json", "".join(json.dumps(t) + "\n" for t in tests))


JUNIT = '<testsuites><testsuite tests="5" failures="{}" errors="0" skipped="1"/></testsuites>'


@pytest.mark.parametrize("tests,failures,line,status", [
    ([{"result": "OK"}], 0, "5 passed, 0 failed, 1 skipped", 0),
    ([{"result": "OK", "stderr": "[  PASSED  ] 7 test(s).\n"}], 0, "11 passed, 0 failed, 1 skipped", 0),
    ([{"result": "OK"}], 2, "3 passed, 2 failed, 1 skipped", 1),
    ([{"result": "FAIL", "stderr": "[  PASSED  ] 7 test(s).\n[  FAILED  ] 2 test(s), listed below:\n"}], 0,
     "11 passed, 2 failed, 1 skipped", 1),
    ([{"result": "TIMEOUT", "stdout": "[  PASSED  ] 3 test(s).\n"}], 0, "7 passed, 1 failed, 1 skipped", 1),
    ([{"result": "SKIP"}, {"result": "FAIL"}], 0, "4 passed, 1 failed, 2 skipped", 1),
])
def test_sum(tmp_path, tests, failures, line, status):
    records(tmp_path, *tests)
    write(tmp_path / "p.xml", JUNIT.format(failures))
    done = run("count-tests", tmp_path, tmp_path / "p.xml")
    assert done.stdout.splitlines()[-1] == line
    assert done.returncode == status


def test_a_missing_record_is_a_failure(tmp_path):
    records(tmp_path, {"result": "OK"})
    done = run("count-tests", tmp_path, tmp_path / "absent.xml")
    assert (done.stdout, done.returncode) == ("1 passed, 1 failed, 0 skipped\n", 1)
