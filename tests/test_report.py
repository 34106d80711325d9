"""Does the report say what the data say? Reads what is committed at HEAD."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from conftest import load

# Constants of the method, not measurements.
ALLOWED = {r"0.5\,\%", r"3\,\%", r"95\,\%", r"94\,\%", r"90\,\%", r"1\,\%", r"65\,\%", r"2\,\%"}
TYPED = re.compile(r"\d*\.\d+(?:\\,\\%)?|\d+(?:~|\\,|\s)*(?:s\b|ms\b|\\%|img/s|GiB|\\times|×)")


@pytest.fixture(scope="module")
def text(committed) -> str:
    source = (committed / "report" / "report.tex").read_text()
    body = source.split(r"\begin{document}")[1]
    body = re.sub(r"(?s)\\begin\{verbatim\}.*?\\end\{verbatim\}", "", body)
    marks = r"(?m)^%.*$|\\includegraphics\[.*?\]|\\(?:val|num)\{[^}]*\}"
    return re.sub(marks, "X", body)


def test_no_number_of_a_measurement_is_typed(text):
    typed = {found.group(0) for found in TYPED.finditer(text)}
    assert typed <= ALLOWED, typed - ALLOWED


def test_the_check_finds_typed_numbers():
    for typed in ("3.4", r"12\,\%", "7~s", "40 ms", "5~img/s", r"2\times"):
        assert TYPED.search(f"takes {typed} more"), typed


def test_every_number_and_figure_exists(committed):
    """numbers.tex has what report.tex asks for, no more, and it is what the data give."""
    body = (committed / "report" / "report.tex").read_text().split(r"\begin{document}")[1]
    asked = set(re.findall(r"\\num\{(.*?)\}", body))
    asked |= {
        name + end for name in re.findall(r"\\val\{(.*?)\}", body) for end in ("", "-low", "-high")
    }
    said = (committed / "report" / "numbers.tex").read_text()
    assert set(re.findall(r"\\csname (.*?)\\endcsname\{", said)) == asked and asked
    for figure in re.findall(r"\\includegraphics\[.*?\]\{(.*?)\}", body):
        assert list(committed.rglob(f"{figure}.pdf")), figure
    for script in ("claims", "report_numbers"):
        subprocess.run(
            [sys.executable, committed / "report" / f"{script}.py"], check=True, capture_output=True
        )
    assert (committed / "report" / "numbers.tex").read_text() == said


def test_an_unknown_number_is_an_error(committed, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(committed, copy)
    with (copy / "report" / "report.tex").open("a") as file:
        file.write(r"\num{cpu/most/no-such-quantity}")
    command = [sys.executable, copy / "report" / "report_numbers.py"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1 and "'cpu/most/no-such-quantity'" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def pdf_text(committed: Path) -> str:
    if not shutil.which("pdftotext"):
        pytest.skip("pdftotext (poppler-utils) is not here")
    command = ["pdftotext", "-layout", str(committed / "report" / "report.pdf"), "-"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_the_pdf_is_of_the_committed_data(committed):
    said = (committed / "report" / "numbers.tex").read_text()
    fingerprint = re.search(r"csname fingerprint\\endcsname\{(.*?)\}", said)[1]
    assert fingerprint in pdf_text(committed), (
        "report.pdf is older than its data: make plots report"
    )


def test_the_pdf_is_whole(committed):
    pdf = " ".join(pdf_text(committed).replace("’", "'").split())
    for bad in ("??", "TODO", " nan "):
        assert bad not in pdf
    source = (committed / "report" / "report.tex").read_text()
    captions = re.findall(r"\\caption\{(.{25})", source, re.DOTALL)
    assert len(captions) >= 6
    for caption in captions:
        words = re.split(r"\\|\[", caption)[0].split()
        assert " ".join(words[:-1]) in pdf, caption


def rates(values: dict[int, tuple[float, float, float]]) -> pd.DataFrame:
    table = pd.DataFrame(values, index=["rate", "rate_low", "rate_high"]).T
    return table.assign(loading=[0.4 / n for n in table.index])


def test_claims_follow_the_data():
    """Change the numbers and the verdicts change."""
    claims = load("report/claims.py")
    good = rates({n: (n, 0.99 * n, 1.01 * n) for n in range(1, 9)})
    bad = rates({n: (n**0.5, 0.99 * n**0.5, 1.01 * n**0.5) for n in range(1, 9)})
    assert claims.linear_published(good.loc[2:])[1] == "Not refuted"
    assert claims.linear_published(bad.loc[2:])[1] == "No: efficiency below 1 on 3, 4, 5, 6, 7"
    assert claims.slower(bad)[1] == "No"
    assert claims.slower(rates({7: (8, 7.9, 8.1), 8: (7, 6.9, 7.1)}))[1] == "Yes"
    assert claims.slower(rates({7: (8, 7, 9), 8: (7.5, 6.9, 8.1)}))[1] == "Not decided"
    assert claims.loading(good, shortest=0.0)[1] == "No: it falls, as each loads fewer images"
    assert claims.loading(good.assign(loading=0.1), shortest=0.0)[1] == "Not refuted"
    assert claims.loading(good, shortest=0.2)[1].startswith("Too small to measure (< 200 ms)")
    text = claims.loading(good, shortest=0.15)[0]
    assert text == "Loading of a step, of slowed devices: 200 ms on 2, under 150 ms on 8"
    assert claims.linear_here(good.assign(efficiency=0.9, efficiency_high=1))[0].endswith(
        "0.90 on 2 and 0.90 on 8"
    )
    gpus = [
        rates(
            {n: (gain, 0.99 * gain, 1.01 * gain) for n, gain in zip((1, 2, 3), gains, strict=True)}
        ).assign(total_batch=batch)
        for batch, gains in ((16, (1, 1.2, 1.1)), (64, (1, 1.6, 2.2)))
    ]
    assert claims.super_linear(pd.concat(gpus))[1].startswith("No")
    assert claims.best_counts(pd.concat(gpus))[1] == "Yes"
    up_and_down = [
        gpus[0].assign(total_batch=64),
        gpus[1].assign(total_batch=32),
        gpus[0].loc[:1].assign(total_batch=16),
    ]
    assert claims.best_counts(pd.concat(up_and_down))[1].startswith("Not decided")
    split = good.assign(efficiency=[32 / n / -(-32 // n) for n in good.index])
    split = split.assign(efficiency_low=0.5, efficiency_high=split["efficiency"])
    assert claims.linear_here(split)[1] == "Not refuted"
    below = claims.linear_here(split.assign(efficiency_high=split["efficiency"] - 0.01))[1]
    assert below == "No: below what the split allows on 2, 3, 4, 5, 6, 7"
    beyond = rates({1: (1, 0.9, 1.1), 2: (4, 3.9, 4.1)}).assign(total_batch=16)
    assert claims.super_linear(beyond)[1] == "Yes"


def test_memory_verdict(tmp_path):
    claims, path = load("report/claims.py"), tmp_path / "memory.csv"
    head = "way,batch_size,num_devices,predicted_gib\n"
    for plain, bf16, verdict in (
        (16, 8, "Only in plain fp32 on its card: one is enough with bf16"),
        (16, 12, "Yes"),
        (9, 8, "No"),
    ):
        path.write_text(f"{head}plain,128,1,{plain}\nbf16,128,1,{bf16}\n")
        assert claims.memory(path)[1] == f"{verdict} (predicted)"
