"""What the programs of this folder share: files of rows, numbers, Markdown tables, gnuplot's SVG."""
import csv
import io
import math
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

COLOURS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9"]  # Okabe and Ito
PREAMBLE = """set encoding utf8
set terminal svg size 760,{height} font 'Helvetica Neue,Arial,sans-serif,15' background rgb 'white' noenhanced
set output '{out}'
set border 3 lc rgb '#555555'
set tics nomirror out scale 0.6 textcolor rgb '#333333'
set grid ytics lt 1 lw 1 lc rgb '#E4E4E4'
set key outside top left horizontal Left reverse maxcols {columns} samplen 1.6 font ',13' textcolor rgb '#333333'
set title '{title}' font ',15'
set xlabel '{x}'
set ylabel '{y}'
"""


def number_in(text):
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def read_rows(path, columns, numbers=(), optional=()):
    """Rows of a CSV file as dictionaries; none where there is no file. Other columns, rows of another length and values that
    are no numbers in the columns `numbers` (or, where there is one, in `optional`) end the program."""
    path = Path(path)
    if not path.exists():
        return []
    with open(path, newline="") as f:
        reader = csv.DictReader(f)
        where = f"{Path(sys.argv[0]).name}: {path}"
        if reader.fieldnames != columns:
            sys.exit(f"{where}: expected the columns {','.join(columns)}, found {','.join(reader.fieldnames or []) or 'none'}")
        rows = []
        for row in reader:
            if None in row or None in row.values():
                sys.exit(f"{where}:{reader.line_num}: expected {len(columns)} values, found {'more' if None in row else 'fewer'}")
            for column in columns:
                if not number_in(row[column]) and (column in numbers or (column in optional and row[column])):
                    sys.exit(f"{where}:{reader.line_num}: {column}: expected a number, found {row[column]!r}")
            rows.append(row)
        return rows


def write_text(path, text):
    """The whole file anew beside the old one, then renamed: a stopped program leaves no half file."""
    new = Path(f"{path}.new")
    with open(new, "w", encoding="utf-8", newline="") as f:
        f.write(text)
    os.replace(new, path)


def write_rows(path, columns, rows):
    out = io.StringIO()
    writer = csv.DictWriter(out, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, out.getvalue())


def commit():
    done = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=Path(__file__).parent, capture_output=True, text=True)
    return done.stdout.strip() or "unknown"


def number(value):
    """About three digits, without an exponent."""
    digits = 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2 if abs(value) >= 1 else 3
    return f"{value:,.{digits}f}"


def table(heads, rows):
    right = [all(re.fullmatch(r"[-+]?[\d,.]+x?|", r[i]) for r in rows) for i in range(len(heads))]
    lines = ["| " + " | ".join(heads) + " |", "|" + "|".join("--:" if r else "---" for r in right) + "|"]
    return "\n".join(lines + ["| " + " | ".join(r) + " |" for r in rows]) + "\n"


def quoted(text):
    """Text that means nothing special inside gnuplot's single quotes or in SVG."""
    return re.sub(r"['\"<>&\\\n]", " ", text)


def gnuplot(folder, name, title, axes, settings, series):
    """series: (label, style, lines of data). False where gnuplot is missing."""
    with tempfile.TemporaryDirectory() as work:
        plots = []
        for i, (label, style, lines) in enumerate(series):
            data = Path(work) / f"{i}.dat"
            data.write_text("\n".join(lines) + "\n")
            plots.append(f"'{data}' {style} title '{quoted(label)}'")
        columns = 2 if max(len(label) for label, _, _ in series) > 24 else 3
        height = 390 + 20 * -(-len(series) // columns)  # the key stands above the picture, not in its place
        script = PREAMBLE.format(out=f"{work}/out.svg", title=quoted(title), x=quoted(axes[0]), y=quoted(axes[1]), height=height,
                                 columns=columns) + settings
        script += "plot " + ", \\\n     ".join(plots) + "\n"
        try:
            done = subprocess.run(["gnuplot", "-d", "-"], input=script, capture_output=True, text=True, timeout=60)
        except FileNotFoundError:
            print("plot: gnuplot is not installed: no pictures", file=sys.stderr)
            return False
        if done.returncode:
            sys.exit(f"plot: {name}: {' '.join(done.stderr.split())}")
        write_text(Path(folder, name), Path(work, "out.svg").read_text(encoding="utf-8"))
    return True
