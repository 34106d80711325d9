"""The house rules: one block in both training scripts, who imports whom, one name for one job."""

import ast
import re
import shutil
import subprocess
import sys

import pytest
from conftest import REPOSITORY, load

TRAINING = ["cpu/project_ex_1.py", "gpu/project_ex_2.py"]
BLOCK = {"COLUMNS", "batch_split", "train_step", "noting_hook", "run_steps", "write_rows",
         "granted_cores", "main"}  # fmt: skip
ASKS_FOR_THE_DEVICE = re.compile(r"cuda|accelerator|is_available|\.type\b")
SCRIPTS = [path for path in REPOSITORY.rglob("*.py")
           if not {"tests", ".venv"} & set(path.relative_to(REPOSITORY).parts)]


def split(path: str) -> tuple[str, str]:
    """The shared block of a script, and the rest of it."""
    before, block, after = (REPOSITORY / path).read_text().split("# ---- shared", 2)
    return "#" + block.rsplit("\n", 1)[0], before + after.split("\n", 1)[1]


def functions(text: str) -> dict[str, list[str]]:
    """The functions of a module and the names of their arguments."""
    tree = ast.parse(text)
    return {node.name: [a.arg for a in node.args.args] for node in ast.walk(tree)
            if isinstance(node, ast.FunctionDef)}


def test_block_is_the_same_and_knows_no_device():
    blocks = [split(path)[0] for path in TRAINING]
    assert blocks[0] == blocks[1]
    tree = ast.parse(blocks[0])
    names = {t.id for node in tree.body if isinstance(node, ast.Assign) for t in node.targets
             if isinstance(t, ast.Name)}  # fmt: skip
    assert BLOCK <= names | set(functions(blocks[0]))
    assert not ASKS_FOR_THE_DEVICE.findall(blocks[0])


def test_outside_the_block_the_same_name_does_the_same_job():
    """What only one script has is named here: the diff of the two is the list of differences."""
    cpu, gpu = (functions(split(path)[1]) for path in TRAINING)
    same = {"parse_arguments", "measure", "build_device", "machine"}
    assert set(cpu) - same == {"take_cores", "take_share"}  # by pinning, and by a control group
    assert set(gpu) - same == {"mark"}  # an event on the GPU's stream
    assert all(cpu[name] == gpu[name] for name in same)


def test_who_imports_whom():
    """Scripts import common/, a study's script the training script, project_ex_2 the prediction."""
    modules = {path.stem: path for path in SCRIPTS}
    arrows = set()
    for path in SCRIPTS:
        for node in ast.walk(ast.parse(path.read_text())):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) else []
            arrows |= {(path, modules[name]) for name in names if name in modules}
    across = {(a.stem, b.stem) for a, b in arrows if b.parent.name != "common"}
    assert across == {("project_ex_2", "predict_memory")} | {
        (name, "project_ex_1") for name in ("measure_learning", "measure_limit", "list_blocks")}
    common = {(a.stem, b.stem) for a, b in arrows if a.parent.name == "common"}
    parts = {("sweep", name) for name in ("identity", "memories", "nodes", "runs", "shares")}
    assert common == parts | {("figures", "results")}


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_functions_are_short_and_imports_do_no_work(path):
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            assert node.end_lineno - node.lineno + 1 <= 55, node.name
    allowed = ast.FunctionDef | ast.ClassDef | ast.Import | ast.ImportFrom | ast.Assign | ast.Expr
    assert all(isinstance(node, allowed | ast.If | ast.AugAssign) for node in tree.body)


CODE = '''"""A script."""
import os


def double(number: int, *, text: str = f"{os.sep}") -> int:
    """Twice."""
    return 2 * number  # so it is


print(double(1), add("--steps", help="how many"))
'''


def test_identity_is_of_what_the_code_does(tmp_path):
    identity, path = load("common/identity.py"), tmp_path / "script.py"

    def hash_of(old: str = "", new: str = "") -> str:
        assert old in CODE
        path.write_text(CODE.replace(old, new) if old else CODE)
        return identity.code_hash([path])

    plain = hash_of()
    for old, new in (("Twice.", "Two times."), ("# so it is", "# yes"), ("A script.", "Mine."),
                     ("how many", "the number"), ("(1), ", "(1),\n  ")):  # fmt: skip
        assert hash_of(old, new) == plain, new
    for old, new in (("2 * number", "3 * number"), ("os.sep", "os.linesep"), ("print", "repr"),
                     ("double(1)", "double(2)")):  # fmt: skip
        assert hash_of(old, new) != plain, new


@pytest.mark.parametrize("version", ["3.10", "3.11", "3.12", "3.13", "3.14"])
def test_identity_is_the_same_on_every_python(version):
    python = shutil.which(f"python{version}")
    command = "import sys; sys.path.insert(0, 'common'); import identity, pathlib; print(\
        sys.version_info[:2], identity.code_hash([pathlib.Path('cpu/project_ex_1.py')]))"
    runs = [subprocess.run([name, "-c", command], cwd=REPOSITORY, capture_output=True, text=True)
            for name in (sys.executable, python or sys.executable)]  # fmt: skip
    major, minor = map(int, version.split("."))
    if f"({major}, {minor})" not in runs[1].stdout:
        pytest.skip(f"Python {version} is not here")
    assert runs[0].stdout.split()[-1] == runs[1].stdout.split()[-1]


def test_project_ex_2_is_identified_with_its_prediction():
    identity = load("common/identity.py")
    files = identity.with_imports(REPOSITORY / "gpu" / "project_ex_2.py")
    assert [path.name for path in files] == ["project_ex_2.py", "predict_memory.py"]
    assert len(identity.with_imports(REPOSITORY / "cpu" / "project_ex_1.py")) == 1
