"""Are the faster settings compared rightly? Known rates, known losses, a short real training."""

import itertools
import math
import statistics
import sys

import pytest
from conftest import REPOSITORY, launch, load, read_rows
from hypothesis import given, settings
from hypothesis import strategies as st
from test_hostile import DEFINITION, FUZZ, NASTY
from test_plots import run_plots, write_run

PEAK = "precision,cores,flops_a_second,flops_an_image\nfp32,2,200,10\nbf16,2,400,10\n"
FAST = {"precision": "bf16", "channels_last": 1, "options": "tune=keep-memory"}


@pytest.fixture
def variants(monkeypatch):
    monkeypatch.syspath_prepend(REPOSITORY / "cpu")
    return load("cpu/plot_variants.py")


def write_study(folder, **fast):
    """Six rounds in which the machine drifts: fast settings take a third of plain PyTorch's."""
    for run, drift in enumerate([1.0, 1.3, 0.9, 1.1, 1.6, 1.2], start=1):
        write_run(folder / "plain", 2, run, 8.0 * drift, loader="pil")
        write_run(folder / "tensor", 2, run, 7.5 * drift)
        write_run(folder / "fast", 2, run, 8.0 / 3 * drift, **FAST | fast)
    (folder / "peak.csv").write_text(PEAK)
    losses = ["seed,setting,step,loss"]
    for seed, step in itertools.product(range(6), range(100)):
        loss = 1.0 if step >= 50 else 2.0
        losses.append(f"{seed},plain,{step},{loss}")
        losses.append(f"{seed},fast,{step},{loss + 0.01 * (seed - 2)}")
    (folder / "learning.csv").write_text("\n".join(losses) + "\n")


def test_known_gains_and_limits(variants, tmp_path):
    write_study(tmp_path)
    table = variants.read_variants(tmp_path).set_index("variant")
    fast = table.loc["tensor loader + bf16 + channels last + keep memory"]
    assert list(table.index) == [variants.PLAIN, "tensor loader", fast.name]
    assert [fast[f"gain{end}"] for end in variants.ENDS] == pytest.approx([3.0] * 3)
    assert fast["rate"] == pytest.approx((12 / 1.1 + 12 / 1.2) / 2)
    assert fast["loading_gain"] == pytest.approx(3.0)
    assert fast["loading_percent"] == pytest.approx(10.0)
    # Two cores of 200 operations a second and 10 an image could do 40 images a second.
    assert fast["limit_percent"] == pytest.approx(100 * fast["rate"] / 40)


def test_known_difference_in_learning(variants, tmp_path):
    write_study(tmp_path)
    _, learning = variants.read_learning(tmp_path / "learning.csv")
    found = [learning[f"difference{end}"] for end in variants.ENDS]
    assert found == ["0.0050", "-0.0200", "0.0300"] and learning["drop"] == "1.00"
    assert variants.told(learning, "percent", None) == "0.5 [-2.0, 3.0]"


def test_figures_of_variants_and_what_is_missing(tmp_path):
    write_study(tmp_path / "results")
    command = ["cpu/plot_variants.py", tmp_path / "results", "--output", tmp_path / "plots"]
    done = run_plots(*command)
    assert done.returncode == 0 and "3.00 [3.00, 3.00]" in done.stdout, done.stderr
    assert {path.name for path in (tmp_path / "plots").iterdir()} == {
        "variants.png", "variants.pdf", "learning.png", "learning.pdf", "variants.csv",
        "variants_rows.tex", "variants_numbers.tex", "answers.md",
    }  # fmt: skip
    (tmp_path / "results" / "peak.csv").unlink()
    done = run_plots(*command)
    assert done.returncode == 2 and "peak.csv" in done.stderr and "Traceback" not in done.stderr


@given(data=st.data())
@settings(max_examples=20, **FUZZ)
def test_hostile_variants(variants, monkeypatch, tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("hostile")
    write_study(folder / "results", options=data.draw(NASTY), dataset=data.draw(NASTY))
    changed = folder / "results" / data.draw(st.sampled_from(["peak.csv", "learning.csv"]))
    lines = [line.split(",") for line in changed.read_text().splitlines()]
    line = data.draw(st.sampled_from(lines))
    line[data.draw(st.integers(0, len(line) - 1))] = data.draw(NASTY)
    changed.write_text("\n".join(map(",".join, lines)), errors="surrogatepass")
    monkeypatch.setattr(variants.plots, "save", lambda figure, _: (
        figure.canvas.draw(), variants.plt.close(figure)))  # fmt: skip
    arguments = [str(folder / "results"), "--output", str(folder / "plots")]
    monkeypatch.setattr(sys, "argv", ["plots", *arguments])
    try:
        variants.main()
        lines = (folder / "plots" / "variants_numbers.tex").read_text().split("\n")[1:]
        assert all(DEFINITION.fullmatch(line) for line in lines if line), lines
    except SystemExit as end:
        assert end.code == 2
    assert {path.name for path in folder.iterdir()} <= {"results", "plots"}


def test_costs_of_a_sweep(tmp_path):
    plots = load("cpu/plot_cpu_results.py")
    assert plots.sweep_cost(tmp_path) == {}
    path = tmp_path / "runs.csv"
    path.write_text("run_id,wall_s,steps_s,result\n1,20,10,complete\n")
    assert plots.sweep_cost(tmp_path) == {}, "an older sweep recorded no causes"
    path.write_text(
        "run_id,wall_s,steps_s,result,launch_s,imports_s,data_s,rendezvous_s,model_s\n"
        "1,20,10,complete,2,3,1,0,1\n2,99,,failed,,,,,\n3,20,14,complete,1,2,0,0,1\n"
    )
    cost = plots.sweep_cost(tmp_path)
    assert cost["steps_percent"] == 60 and cost["launch_percent"] == 7.5
    assert cost["ending_percent"] == pytest.approx(12.5)
    assert cost["start_up"] == 5.5 and cost["longest_start_up"] == 7


def test_both_settings_begin_alike_and_learn(data, tmp_path):
    """The first loss is that of equal weights and images: apart by rounding and resampling only."""
    path = tmp_path / "learning.csv"
    options = ["--seeds", "1", "--steps", "20", "--image-size", "32", "--batch-size", "16"]
    script = REPOSITORY / "cpu" / "measure_learning.py"
    done = launch(2, script, "--output", path, "--data", data, *options)
    assert done.returncode == 0, done.stderr
    losses = {"plain": [], "fast": []}
    for row in read_rows(path):
        losses[row["setting"]].append(float(row["loss"]))
    assert len(losses["plain"]) == len(losses["fast"]) == 20
    assert losses["fast"][0] == pytest.approx(losses["plain"][0], rel=0.05)
    assert losses["plain"][0] == pytest.approx(math.log(10), rel=0.3)
    for values in losses.values():
        assert statistics.mean(values[-5:]) < statistics.mean(values[:5])


def test_the_arithmetic_of_an_image(monkeypatch):
    """Forward, and both parts of backward: with the side, it grows as the area."""
    monkeypatch.syspath_prepend(REPOSITORY / "cpu")
    peak = load("cpu/measure_peak.py")
    full, half = peak.flops_of_an_image(224), peak.flops_of_an_image(112)
    assert full / half == pytest.approx(4, rel=0.05)
    # DenseNet121's forward pass is known to take 2.87e9 multiplications and as many additions.
    assert full == pytest.approx(3 * 2 * 2.87e9, rel=0.05)
