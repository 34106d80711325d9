"""Whatever a results folder holds, the plotting scripts end with a status and a line, write into
their output folder alone, and put nothing into LaTeX that it could run."""

import json
import re

import pytest
from conftest import load
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from test_plots import PLOTS, write_run

NASTY = st.one_of(
    st.sampled_from(
        [
            "",
            "nan",
            "inf",
            "-1",
            "0",
            "1e308",
            "-1e308",
            "0.5",
            "99999999999999999999",
            "1e-320",
            r"\input{/etc/passwd}",
            r"}\immediate\write18{id}",
            r"$\frac{",
            "=1+1",
            "../../escape",
            "\x00",
            "\n\n",
            '"',
            "a,b",
            "k=v;network=1gbit",
            "é\u202e\ud7ff",
        ]
    ),
    st.text(max_size=30),
    st.floats().map(str),
    st.integers().map(str),
)
CELL = r"(?:[^\\{}%#$&_^~\n\r]|\\[#$%&_{}])*"
LINE = re.compile(rf"{CELL}(?: & {CELL})* \\\\")
FUZZ = {
    "deadline": None,
    "derandomize": True,
    "print_blob": False,
    "phases": [Phase.explicit, Phase.generate],  # a failure is not worth minutes of shrinking
    "suppress_health_check": [HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
}


@pytest.fixture(params=PLOTS)
def plots(request):
    return load(PLOTS[request.param])


def status_of(plots, monkeypatch, *arguments) -> int:
    # All is laid out, texts too, but not written: writing is what takes the time.
    monkeypatch.setattr(
        plots.figures, "save", lambda figure, _: (figure.canvas.draw(), plots.plt.close(figure))
    )
    args = plots.figures.read_arguments("", plots.HERE / "cpu_run", list(map(str, arguments)))
    with pytest.raises(SystemExit) as end:
        plots.figures.plot_results(args, plots.draw_all)
    return end.value.code


def change(path, data) -> None:
    """Put something nasty into a cell, a line or a byte of a file."""
    if data.draw(st.booleans()):
        lines = [line.split(",") for line in path.read_text().splitlines()]
        line = data.draw(st.sampled_from(lines))
        for _ in range(data.draw(st.integers(1, 3))):
            line[data.draw(st.integers(0, len(line) - 1))] = data.draw(NASTY)
        if data.draw(st.booleans()):
            lines.append(line)
        path.write_text("\n".join(",".join(line) for line in lines), errors="surrogatepass")
    else:
        raw = path.read_bytes()
        at = data.draw(st.integers(0, len(raw)))
        path.write_bytes(raw[:at] + data.draw(st.binary(max_size=5)) + raw[at + 3 :])


@pytest.mark.filterwarnings("ignore:Glyph", "ignore:overflow", "ignore:invalid value")
@given(data=st.data())
@settings(max_examples=15, **FUZZ)
def test_hostile_files(plots, monkeypatch, tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("hostile")
    results, output = folder / "results", folder / "output"
    for run in (1, 2):
        write_run(results, 1, run, 4.0)
        path = write_run(
            results,
            2,
            run,
            2.0,
            **{name: data.draw(NASTY) for name in ("dataset", "options", "precision", "model")}
            if data.draw(st.booleans())
            else {},
        )
    change(path, data)
    leaves = st.one_of(NASTY, st.none(), st.integers(), st.lists(NASTY))
    part = st.one_of(
        st.dictionaries(
            st.sampled_from(["cpu_model", "cores_granted", "gpu_model", "a_b", r"\x"]), leaves
        ),
        leaves,
    )
    environment = {"recorded": data.draw(part), "identity": data.draw(part)}
    (results / "environment.json").write_text(json.dumps(environment))
    before = {path: path.read_bytes() for path in results.rglob("*") if path.is_file()}
    assert status_of(plots, monkeypatch, results, "--output", output) in (0, 1, 2)
    assert {path.name for path in folder.iterdir()} <= {"results", "output"}
    assert before == {path: path.read_bytes() for path in results.rglob("*") if path.is_file()}


@given(cells=st.lists(st.lists(NASTY, min_size=1, max_size=4), min_size=1, max_size=3))
@settings(max_examples=150, **FUZZ)
def test_rows_of_a_table_are_harmless(cells):
    *lines, last = load("report/report_numbers.py").tex_rows(cells).split("\n")
    assert last == "" and len(lines) == len(cells)
    assert all(LINE.fullmatch(line) for line in lines), lines


def test_every_cut_of_a_file(tmp_path):
    """A CSV file cut at any byte is left out with a reason, or is the whole of itself."""
    results = load("common/results.py")
    path = write_run(tmp_path, 2, 1, 2.0)
    raw = path.read_bytes()
    whole = results.read_run(path)
    for cut in range(0, len(raw), 3):
        path.write_bytes(raw[:cut])
        try:
            assert results.read_run(path).equals(whole)
        except results.ResultsError as error:
            assert str(error)
