"""What was computed once is never computed again, and a dry run says what would be and changes nothing."""

import os
import re

import pytest

pytestmark = pytest.mark.workflow

DRY_RUNS = {"plain": [], "forced": ["--forceall"], "a target": ["data/scores/even-sign.parquet"]}


def files(project):
    """Content and modification time of every file but those of Snakemake itself and of git."""
    paths = (path for path in sorted(project.folder.rglob("*")) if path.is_file())
    kept = (path for path in paths if not {".snakemake", ".git"} & set(path.relative_to(project.folder).parts))
    return {str(path): (path.read_bytes(), path.stat().st_mtime_ns) for path in kept}


def to_run(said):
    """The jobs, by rule, that Snakemake says it would run."""
    rows = said.partition("Job stats:")[2].partition("total")[0].splitlines()
    return {rule: int(count) for rule, count in re.findall(r"^(\w+) +(\d+)$", "\n".join(rows), re.M) if rule != "all"}


@pytest.mark.parametrize("options", DRY_RUNS.values(), ids=DRY_RUNS)
def test_a_dry_run_changes_nothing(computed, options):
    """With files that can be restored, files that are stale, and generated files that are out of date."""
    (computed.folder / "data/adversarial/even-add.json").unlink()
    (computed.folder / "stages/attacks/sign.py").write_text('SALT = "other"\n')
    computed.set(sets=["even", "odd", "prime"])
    before = files(computed)
    computed.snakemake("-n", *options)
    assert files(computed) == before


def test_a_dry_run_of_a_profile_changes_nothing(computed):
    profile = computed.folder.parent / "look"
    profile.mkdir()
    (profile / "config.yaml").write_text("dry-run: true\nquiet: rules\n")
    computed.set(scale=7)
    before = files(computed)
    computed.snakemake("--profile", str(profile))
    assert files(computed) == before


def test_a_dry_run_says_what_then_runs(computed):
    (computed.folder / "data/adversarial/even-add.json").unlink()
    (computed.folder / "stages/attacks/sign.py").write_text('SALT = "other"\n')
    said = computed.snakemake("-n")
    assert "1 would be restored" in said
    computed.snakemake()
    ran = computed.computed()
    assert to_run(said) == {rule: sum(name.startswith(rule) for name in ran) for rule in ("attack", "report", "score")}


def test_switching_branches_computes_nothing_again(computed):
    def git(*arguments):
        assert computed.run("git", *arguments).returncode == 0

    first = computed.run("git", "branch", "--show-current").stdout.strip()
    git("checkout", "-q", "-b", "other")
    (computed.folder / "stages/attacks/sign.py").write_text('SALT = "other"\n')
    computed.set(scale=3)
    computed.snakemake()
    computed.commit()
    assert len(computed.computed()) == 11
    for branch in (first, "other", first):
        git("checkout", "-q", branch)
        assert "Nothing to be done" in computed.snakemake("-n")
        computed.snakemake()
        assert computed.computed() == []
        assert "up to date" in computed.dvc("status")
        assert computed.run("git", "status", "--porcelain").stdout == ""


def test_merged_branches_name_no_result_that_nobody_computed(computed):
    """Merged line by line, dvc.lock would name the result of one branch's settings for the other's code."""

    def git(*arguments):
        return computed.run("git", "-c", "user.name=toy", "-c", "user.email=toy@example.org", *arguments).returncode

    assert git("checkout", "-q", "-b", "code") == 0
    attack = computed.folder / "stages/attack.py"
    depending = '.SALT * (2 if params.values["attacks"]["add"] == {"step": 0.5} else 1)'
    attack.write_text(attack.read_text().replace(".SALT", depending))
    computed.snakemake()  # the setting that makes the difference is the other branch's: same results
    computed.commit()
    assert git("checkout", "-q", "-") == 0
    computed.set(attacks={"add": {"step": 0.5}, "sign": None})
    computed.snakemake()
    computed.commit()
    computed.computed()

    assert git("merge", "-q", "code") == 1
    unmerged = computed.run("git", "diff", "--name-only", "--diff-filter=U").stdout.split()
    assert unmerged == ["dvc.lock"]
    computed.snakemake()
    assert "attack--even-add" in computed.computed()
    computed.commit()
    assert "up to date" in computed.dvc("status")


def test_added_cells_alone_run(computed):
    computed.set(sets=["even", "odd", "prime"])
    computed.snakemake()
    prime = [f"{rule}--prime-{by}" for rule in ("attack", "score") for by in ("add", "sign")]
    assert computed.computed() == sorted([*prime, "prepare--prime", "report--all"])
    computed.set(sets=["odd", "prime"])
    computed.snakemake()
    assert computed.computed() == ["report--all"]
    (computed.folder / "stages/attacks/shift.py").write_text('SALT = "shift"\n')
    computed.set(attacks={"add": {"step": 0.001}, "sign": None, "shift": None})
    computed.snakemake()
    shift = [f"{rule}--{name}-shift" for rule in ("attack", "score") for name in ("odd", "prime")]
    assert computed.computed() == sorted([*shift, "report--all"])


def test_a_comment_or_docstring_in_any_stage_runs_nothing(computed):
    edited = [path for path in (computed.folder / "stages").rglob("*.py") if path.stat().st_size]
    assert len(edited) > 20
    for path in edited:
        text = path.read_text()
        docstring = "" if text.startswith('"""') else '"""What this is about."""\n'
        path.write_text(f"{docstring}{text}\n# A comment.\n")
    assert "Nothing to be done" in computed.snakemake("-n")
    computed.snakemake()
    assert computed.computed() == []


def test_revouch_keeps_results_that_a_tidied_code_gives_again(computed):
    """After `make revouch` nothing runs, here and where the records are shared."""
    attack = computed.folder / "stages/attacks/sign.py"
    attack.write_text('SALT = "si" + "gn"\n')
    assert to_run(computed.snakemake("-n"))["attack"] == 2
    said = computed.make("revouch")
    assert said.returncode == 0, said.stdout
    assert "2 results now stand under the new code" in said.stdout
    computed.computed()
    assert "Nothing to be done" in computed.snakemake("-n")
    assert "up to date" in computed.dvc("status")
    for path in (computed.folder / "data/adversarial").iterdir():
        path.unlink()
    assert "4 restored" in computed.snakemake()
    assert computed.computed() == []


def test_revouch_keeps_nothing_where_one_result_differs(computed):
    attack = computed.folder / "stages/attacks/sign.py"
    attack.write_text('SALT = "other"\n')
    before = files(computed)
    said = computed.make("revouch")
    assert said.returncode != 0
    assert "different: attack--odd-sign computed again gives other bytes" in said.stdout
    computed.computed()
    assert files(computed) == before
    assert to_run(computed.snakemake("-n")) == {"attack": 2, "score": 2, "report": 1}


def test_verify_finds_what_modification_times_hide(computed):
    path = computed.folder / "data/scores/even-add.parquet"
    status, right = path.stat(), path.read_bytes()
    path.write_bytes(right[:-1] + b"?")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert "Nothing to be done" in computed.snakemake("-n")  # nobody hashes what seems to be as it was
    said = computed.make("verify")
    assert said.returncode != 0
    assert "damaged: data/scores/even-add.parquet is not what dvc.lock says" in said.stdout
    assert "1 restored" in computed.snakemake()
    assert path.read_bytes() == right
    said = computed.make("verify", "COUNT=2")
    assert said.returncode == 0
    assert "27 of 27 files are in place" in said.stdout
    assert "2 of 2 results came out the same" in said.stdout
