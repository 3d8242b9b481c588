"""What the programs of this folder share: files of rows, numbers, Markdown tables, gnuplot's SVG."""
import csv
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


def read_rows(path, columns):
    """Rows of a CSV file as dictionaries; none where there is no file. Other columns end the program."""
    if not path.exists():
        return []
    with open(path, newline="") as f:
        reader = csv.DictReader(f)
        if reader.fieldnames != columns:
            sys.exit(f"{Path(sys.argv[0]).name}: {path}: expected the columns {','.join(columns)}")
        return list(reader)


def write_rows(path, columns, rows):
    """The whole file anew beside the old one, then renamed: a stopped run leaves no half row."""
    new = path.with_suffix(".new")
    with open(new, "w", newline="") as f:
        writer = csv.DictWriter(f, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    os.replace(new, path)


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
        Path(folder, name).write_text(Path(work, "out.svg").read_text())
    return True
