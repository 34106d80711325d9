"""Does the report say what the data say? Reads what is committed at HEAD."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import REPOSITORY

# Constants of the method, not measurements.
ALLOWED = {r"0.5\,\%", r"3\,\%", r"95\,\%", r"94\,\%", r"90\,\%", r"1\,\%"}
TYPED = re.compile(
    r"\d*\.\d+(?:\\,\\%)?|\d+(?:~|\\,|\s)*(?:s\b|ms\b|\\%|img/s|GiB|\\times|×)"
)
MACROS = {
    "cpu": "cpu-plots/", "orig": "cpu-plots-original-protocol/", "claim": "claims/",
    "net": "network/", "scal": "scaling/", "vari": "variants/", "vsweep": "cpu-plots-variants/",
}  # fmt: skip


@pytest.fixture(scope="module")
def text(committed) -> str:
    source = (committed / "report" / "report.tex").read_text()
    body = source.split(r"\begin{document}")[1]
    marks = rf"(?m)^%.*$|\\includegraphics\[.*?\]|\\(?:val|{'|'.join(MACROS)})\{{[^}}]*\}}"
    return re.sub(marks, "X", body)


def test_no_number_of_a_measurement_is_typed(text):
    typed = {found.group(0) for found in TYPED.finditer(text)}
    assert typed <= ALLOWED, typed - ALLOWED


def test_the_check_finds_typed_numbers():
    for typed in ("3.4", r"12\,\%", "7~s", "40 ms", "5~img/s", r"2\times"):
        assert TYPED.search(f"takes {typed} more"), typed


def test_every_number_and_figure_exists(committed):
    source = (committed / "report" / "report.tex").read_text()
    body = source.split(r"\begin{document}")[1]
    files = [committed / "report" / name for name in ("claims.tex", "scaling.tex")]
    files += (committed / "cpu").rglob("*numbers.tex")
    definitions = "\n".join(path.read_text() for path in files)
    defined = set(re.findall(r"\\csname (.*?)\\endcsname", definitions))
    named = re.findall(rf"\\({'|'.join(MACROS)})\{{(.*?)\}}", body)
    used = {MACROS[macro] + name for macro, name in named}
    for where, name in re.findall(r"\\val\{(.*?)\}\{(.*?)\}", body):
        used |= {f"{where}/{name}{end}" for end in ("", "-low", "-high")}
    assert used and used <= defined, used - defined
    for figure in re.findall(r"\\includegraphics\[.*?\]\{(.*?)\}", body):
        assert list(committed.rglob(f"{figure}.pdf")), figure


def pdf_text(committed: Path) -> str:
    if not shutil.which("pdftotext"):
        pytest.skip("pdftotext (poppler-utils) is not here")
    command = ["pdftotext", "-layout", str(committed / "report" / "report.pdf"), "-"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_the_pdf_is_of_the_committed_data(committed, tmp_path):
    pdf = pdf_text(committed)
    script = "import importlib.util as u; s = u.spec_from_file_location('claims', '{}'); \
        m = u.module_from_spec(s); s.loader.exec_module(m); print(m.fingerprint())"
    command = [sys.executable, "-c", script.format(committed / "report" / "claims.py")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.strip() in pdf, "report.pdf is older than its data: run make report"


def test_the_pdf_is_whole(committed):
    pdf = " ".join(pdf_text(committed).split())
    for bad in ("??", "TODO", " nan "):
        assert bad not in pdf
    source = (committed / "report" / "report.tex").read_text()
    captions = re.findall(r"\\caption\{(.{25})", source, re.DOTALL)
    assert len(captions) >= 6
    for caption in captions:
        words = re.split(r"\\|\[", caption)[0].split()
        assert " ".join(words[:-1]) in pdf, caption


def test_claims_follow_the_data(tmp_path):
    """Change one number and the verdict changes: the sentence on super-linear speed-up."""
    sys.path.insert(0, str(REPOSITORY / "report"))
    import claims
    import pandas as pd

    here = pd.DataFrame({"efficiency_low": [0.9, 1.2], "batch_size": [32, 32]}, index=[1, 2])
    assert "more than linear for" not in claims.superlinear_sentence(pd.DataFrame(), here.head(1))
    weak = pd.DataFrame({
        "mode": ["ddp"], "scaling": ["weak"], "num_devices": [2], "batch_size": [64],
        "efficiency": [0.8], "efficiency_low": [0.7], "efficiency_high": [0.9],
    })  # fmt: skip
    assert "because the batch a core shrinks" in claims.superlinear_sentence(weak, here)
    weak["efficiency_high"] = 1.3
    assert "part of that" in claims.superlinear_sentence(weak, here)
