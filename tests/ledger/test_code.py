import pytest

from stages.ledger.code import Sources

STAGE = '''"""A stage."""

import numpy
from pkg.domain import loss
from pkg.tools.maths import square


def run(x):
    """Runs."""
    from .late import finish

    return finish(loss.of(square(x)))  # a comment
'''
FILES = {
    "pkg/__init__.py": "",
    "pkg/stage.py": STAGE,
    "pkg/late.py": "def finish(x):\n    return x\n",
    "pkg/other.py": "X = 1\n",
    "pkg/domain/__init__.py": "",
    "pkg/domain/loss.py": "from . import shared\n\n\ndef of(x):\n    return shared.PI * x\n",
    "pkg/domain/shared.py": "PI = 3\n",
    "pkg/tools/__init__.py": "",
    "pkg/tools/maths.py": "def square(x):\n    return x * x\n",
}


@pytest.fixture
def project(tmp_path):
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def digest(project, libraries=()):
    return Sources(project, libraries).digest(["pkg/stage.py"])


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("  # a comment", "  # another"),
        ('"""A stage."""', '"""Something else\n\nat length."""'),
        ('    """Runs."""\n', ""),
        ("square(x)", "square(\n        x,\n    )"),
        ('"""A stage."""', "# no docstring"),
    ],
)
def test_comments_docstrings_and_layout_do_not_count(project, before, after):
    first = digest(project)
    assert before in STAGE
    (project / "pkg/stage.py").write_text(STAGE.replace(before, after))
    assert digest(project) == first


@pytest.mark.parametrize(
    ("before", "after"), [("square(x)", "square(2)"), ("def run(x)", "def run(x: int)"), ("import numpy\n", "")]
)
def test_code_counts(project, before, after):
    first = digest(project)
    assert before in STAGE
    (project / "pkg/stage.py").write_text(STAGE.replace(before, after))
    assert digest(project) != first


def test_a_string_that_is_no_docstring_counts(project):
    first = digest(project)
    (project / "pkg/stage.py").write_text(STAGE + '\nNAME = "a"\n')
    second = digest(project)
    (project / "pkg/stage.py").write_text(STAGE + '\nNAME = "b"\n')
    assert len({first, second, digest(project)}) == 3


@pytest.mark.parametrize(
    "name", ["pkg/late.py", "pkg/domain/loss.py", "pkg/domain/shared.py", "pkg/tools/maths.py", "pkg/__init__.py"]
)
def test_an_imported_module_counts(project, name):
    first = digest(project)
    (project / name).write_text(FILES[name] + "\nY = 2\n")
    assert digest(project) != first


def test_a_module_that_is_not_imported_does_not_count(project):
    first = digest(project)
    (project / "pkg/other.py").write_text("X = 2\n")
    (project / "pkg/new.py").write_text("X = 2\n")
    assert digest(project) == first


def test_what_only_the_type_checker_imports_does_not_count(project):
    guarded = "from typing import TYPE_CHECKING\n\nif TYPE_CHECKING:\n    from pkg import other\n"
    (project / "pkg/stage.py").write_text(guarded)
    first = digest(project)
    (project / "pkg/other.py").write_text("X = 2\n")
    assert digest(project) == first
    (project / "pkg/stage.py").write_text(guarded + "else:\n    import pkg.other\n")
    second = digest(project)
    (project / "pkg/other.py").write_text("X = 3\n")
    assert digest(project) != second


def test_a_template_beside_a_module_counts(project):
    first = digest(project)
    (project / "pkg/domain/page.html").write_text("<p>")
    second = digest(project)
    (project / "pkg/domain/page.html").write_text("<b>")
    assert len({first, second, digest(project)}) == 3
    (project / "pkg/domain/.page.html.swp").write_text("an editor's")
    (project / "pkg/domain/page.html~").write_text("another editor's")
    (project / "pkg/domain/module.orig").write_text("git's")
    (project / "elsewhere.html").write_text("<p>")
    assert digest(project) == Sources(project, ()).digest(["pkg/stage.py"])


def test_a_library_counts_by_its_version_where_it_is_imported(project, monkeypatch):
    versions = {"numpy": "2.4.1", "torch": "2.13.0+cpu"}
    monkeypatch.setattr("importlib.metadata.version", versions.__getitem__)
    first = digest(project, ["numpy", "torch"])
    versions["torch"] = "3.0"
    assert digest(project, ["numpy", "torch"]) == first  # nothing imports it
    versions["numpy"] = "2.4.2"
    second = digest(project, ["numpy", "torch"])
    assert second != first
    versions["numpy"] = "2.4.2+local"
    assert digest(project, ["numpy", "torch"]) == second


def test_an_edit_after_the_digest_was_taken_is_told(project):
    sources = Sources(project, ())
    sources.digest(["pkg/stage.py"])
    maths = project / "pkg/tools/maths.py"
    maths.write_text("# A comment.\n" + maths.read_text())
    sources.check_unchanged()
    maths.write_text("def square(x):\n    return 0\n")
    with pytest.raises(ValueError, match=r"^pkg/tools/maths\.py: was edited while a job started"):
        sources.check_unchanged()


def test_cycles_end(project):
    (project / "pkg/late.py").write_text("import pkg.stage\n")
    assert digest(project) != Sources(project, ()).digest(["pkg/other.py"])


def test_a_missing_module_is_named(project):
    with pytest.raises(FileNotFoundError, match=r"nothing\.py"):
        Sources(project, ()).digest(["pkg/nothing.py"])
