"""The sibling rule: what both scripts of a pair need is one block, the same in both."""

import ast
import re

import pytest
from conftest import REPOSITORY

PAIRS = {
    "training": (
        ["cpu/project_ex_1.py", "gpu/project_ex_2.py"],
        ["COLUMNS", "batch_split", "train_step", "noting_hook", "run_steps", "write_rows"],
    ),
    "sweeping": (["cpu/run_experiments.sh", "gpu/run_gpu_experiments.sh"], []),
    "plotting": (
        ["cpu/plot_cpu_results.py", "gpu/gpu_plots_ex_2.py"],
        ["read_run", "run_table", "median_interval", "ratio_interval", "configuration_table"],
    ),
}
ASKS_FOR_THE_DEVICE = re.compile(r"cuda|accelerator|is_available|\.type\b")


def split(path: str) -> tuple[str, str]:
    """The shared block of a script, and the rest of it."""
    before, block, after = (REPOSITORY / path).read_text().split("# ---- shared", 2)
    return "#" + block.rsplit("\n", 1)[0], before + after.split("\n", 1)[1]


def names(text: str) -> set[str]:
    tree = ast.parse(text)
    functions = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
    return functions | {
        target.id for node in tree.body if isinstance(node, ast.Assign) for target in node.targets
        if isinstance(target, ast.Name)
    }  # fmt: skip


@pytest.mark.parametrize("pair", PAIRS)
def test_block_is_the_same_small_and_complete(pair):
    blocks = [split(path)[0] for path in PAIRS[pair][0]]
    assert len(set(blocks)) == 1
    if pair == "sweeping":
        return
    assert blocks[0].count("\n") < 200
    assert set(PAIRS[pair][1]) <= names(blocks[0])
    assert not ASKS_FOR_THE_DEVICE.findall(blocks[0])


@pytest.mark.parametrize("pair", ["training", "plotting"])
def test_no_function_outside_the_block_has_a_twin(pair):
    functions = []
    for path in PAIRS[pair][0]:
        tree = ast.parse(split(path)[1])
        functions.append({n.name for n in ast.walk(tree) if isinstance(n, ast.FunctionDef)})
    assert functions[0] & functions[1] <= {"main"}


@pytest.mark.parametrize("path", [*PAIRS["training"][0], *PAIRS["plotting"][0]])
def test_functions_are_short_and_imports_do_no_work(path):
    tree = ast.parse((REPOSITORY / path).read_text())
    long = ("main", "parse_arguments", "read_arguments")  # lists of options
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            lines = node.end_lineno - node.lineno + 1
            assert lines <= (60 if node.name in long else 40), node.name
    allowed = ast.FunctionDef | ast.ClassDef | ast.Import | ast.ImportFrom | ast.Assign | ast.Expr
    assert all(isinstance(node, allowed | ast.If) for node in tree.body)
