"""Does the identity of a measurement change with what the code does, and only then?"""

import shutil
import subprocess
import sys

import pytest
from conftest import REPOSITORY, load

CODE = '''"""A script."""
import os


def double(number: int, *, text: str = f"{os.sep}") -> int:
    """Twice."""
    for _ in range(2):
        print(number)
    print(text)
    return 2 * number  # so it is


print(double(1), add("--steps", help="how many"))
'''


@pytest.fixture
def hash_of(tmp_path):
    identity, path = load("common/identity.py"), tmp_path / "script.py"

    def code_hash(old: str = "", new: str = "") -> str:
        assert old in CODE
        path.write_text(CODE.replace(old, new) if old else CODE)
        return identity.code_hash([path])

    return code_hash


@pytest.mark.parametrize(
    "old, new",
    [
        ("Twice.", "Two times."),
        ("# so it is", "# yes"),
        ("A script.", "Mine."),
        ("how many", "the number"),
        ("(1), ", "(1),\n  "),
    ],
)
def test_words_change_nothing(hash_of, old, new):
    assert hash_of(old, new) == hash_of()


@pytest.mark.parametrize(
    "old, new",
    [
        ("2 * number", "3 * number"),
        ("os.sep", "os.linesep"),
        ("print", "repr"),
        ("double(1)", "double(2)"),
        ("    print(text)", "        print(text)"),  # moved into the loop
        ("        print(number)\n    print(text)", "        print(number)\n        print(text)"),
    ],
)
def test_code_changes_it(hash_of, old, new):
    assert hash_of(old, new) != hash_of()


def test_an_optimizer_step_in_the_micro_batch_loop_is_another_code(tmp_path):
    """(Review, defect 1.)"""
    identity, path = load("common/identity.py"), tmp_path / "project_ex_1.py"
    text = (REPOSITORY / "cpu" / "project_ex_1.py").read_text()
    line = "    timeline.device.scaler.step(learner.optimizer)\n"
    assert line in text
    path.write_text(text)
    plain = identity.code_hash([path])
    path.write_text(text.replace(line, "    " + line))
    assert identity.code_hash([path]) != plain


@pytest.mark.parametrize("version", ["3.10", "3.11", "3.12", "3.13", "3.14"])
def test_identity_is_the_same_on_every_python(version):
    python = shutil.which(f"python{version}")
    command = (
        "import sys; sys.path.insert(0, 'common'); import identity, pathlib; print("
        "sys.version_info[:2], identity.code_hash([pathlib.Path('cpu/project_ex_1.py')]))"
    )
    runs = [
        subprocess.run([name, "-c", command], cwd=REPOSITORY, capture_output=True, text=True)
        for name in (sys.executable, python or sys.executable)
    ]
    major, minor = map(int, version.split("."))
    if f"({major}, {minor})" not in runs[1].stdout:
        pytest.skip(f"Python {version} is not here")
    assert runs[0].stdout.split()[-1] == runs[1].stdout.split()[-1]


def test_project_ex_2_is_identified_with_its_prediction():
    identity = load("common/identity.py")
    files = identity.with_imports(REPOSITORY / "gpu" / "project_ex_2.py")
    assert [path.name for path in files] == ["project_ex_2.py", "predict_memory.py"]
    assert len(identity.with_imports(REPOSITORY / "cpu" / "project_ex_1.py")) == 1
