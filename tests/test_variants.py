"""Are the faster settings compared rightly? Known rates, known losses, a short real training."""

import itertools
import math
import statistics
import sys

import pytest
from conftest import REPOSITORY, launch, load, read_rows
from hypothesis import given, settings
from hypothesis import strategies as st
from test_hostile import FUZZ, NASTY
from test_plots import run_plots, write_run

FAST = {"precision": "bf16", "channels_last": 1, "memory": "kept"}


@pytest.fixture
def variants():
    return load("cpu/studies/variants/plot.py")


def write_study(folder, **fast):
    """Six rounds in which the machine drifts: fast settings take a third of plain PyTorch's."""
    for run, drift in enumerate([1.0, 1.3, 0.9, 1.1, 1.6, 1.2], start=1):
        write_run(folder / "plain", 2, run, 8.0 * drift, loader="pil")
        write_run(folder / "tensor", 2, run, 7.5 * drift)
        write_run(folder / "fast", 2, run, 8.0 / 3 * drift, **FAST | fast)
    losses = ["seed,setting,step,loss"]
    for seed, step in itertools.product(range(6), range(100)):
        loss = 1.0 if step >= 50 else 2.0
        losses.append(f"{seed},plain,{step},{loss}")
        losses.append(f"{seed},fast,{step},{loss + 0.01 * (seed - 2)}")
    (folder / "learning.csv").write_text("\n".join(losses) + "\n")


def test_known_gains_and_limits(variants, tmp_path):
    write_study(tmp_path)
    table = variants.read_variants(variants.r.run_table(variants.r.read_results(tmp_path)[0]))
    table = table.set_index("variant")
    fast = table.loc["tensor loader + bf16 + channels last + memory kept"]
    assert list(table.index) == [variants.PLAIN, "tensor loader", fast.name]
    assert [fast[f"gain{end}"] for end in variants.r.ENDS] == pytest.approx([3.0] * 3)
    assert fast["rate"] == pytest.approx((12 / 1.1 + 12 / 1.2) / 2)
    assert fast["loading_percent"] == pytest.approx(10.0)


def test_known_difference_in_learning(variants, tmp_path):
    write_study(tmp_path)
    _, learning = variants.read_learning(tmp_path / "learning.csv")
    assert variants.r.interval_text(learning, "difference", 4) == "0.0050 [-0.0200, 0.0300]"
    assert variants.r.interval_text(learning, "percent", 1) == "0.5 [-2.0, 3.0]"
    assert learning["drop"] == pytest.approx(1.0)


def test_figures_of_variants_and_what_is_missing(tmp_path):
    write_study(tmp_path / "results")
    command = ["cpu/studies/variants/plot.py", tmp_path / "results", "--output", tmp_path / "plots"]
    done = run_plots(*command)
    assert done.returncode == 0 and "3.00 [3.00, 3.00]" in done.stdout, done.stderr
    assert {path.name for path in (tmp_path / "plots").iterdir()} == {
        "variants.png", "variants.pdf", "learning.png", "learning.pdf", "variants.csv",
        "summary.csv", "learning.csv", "answers.md",
    }  # fmt: skip
    (tmp_path / "results" / "learning.csv").unlink()
    done = run_plots(*command)
    assert done.returncode == 2 and "learning.csv" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.filterwarnings("ignore:Glyph", "ignore:overflow", "ignore:invalid value")
@given(data=st.data())
@settings(max_examples=15, **FUZZ)
def test_hostile_variants(variants, monkeypatch, tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("hostile")
    write_study(folder / "results", options=data.draw(NASTY), dataset=data.draw(NASTY))
    changed = folder / "results" / "learning.csv"
    lines = [line.split(",") for line in changed.read_text().splitlines()]
    line = data.draw(st.sampled_from(lines))
    line[data.draw(st.integers(0, len(line) - 1))] = data.draw(NASTY)
    changed.write_text("\n".join(map(",".join, lines)), errors="surrogatepass")
    monkeypatch.setattr(variants.r, "save", lambda figure, _: (
        figure.canvas.draw(), variants.plt.close(figure)))  # fmt: skip
    arguments = [str(folder / "results"), "--output", str(folder / "plots")]
    monkeypatch.setattr(sys, "argv", ["plots", *arguments])
    with pytest.raises(SystemExit) as end:
        variants.main()
    assert end.value.code in (0, 1, 2)
    assert {path.name for path in folder.iterdir()} <= {"results", "plots"}


def test_both_settings_begin_alike_and_learn(data, tmp_path):
    """The first loss is that of equal weights and images: apart by rounding and resampling only."""
    path = tmp_path / "learning.csv"
    options = ["--seeds", "1", "--steps", "20", "--image-size", "32", "--batch-size", "16"]
    script = REPOSITORY / "cpu" / "studies" / "variants" / "measure_learning.py"
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
