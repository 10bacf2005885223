"""One version, and files about the package that say the same as the package does."""

import re
import tomllib

import yaml
from documentation import CONTRIBUTING, ROOT, listings

import mei_lightning as ml

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


def read(name):
    return (ROOT / name).read_text(encoding="utf-8")


def test_the_version_stands_in_one_place():
    assert PROJECT["project"]["dynamic"] == ["version"]
    assert PROJECT["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "mei_lightning.__version__"}
    assert "release = version = mei_lightning.__version__" in read("docs/conf.py")
    for name in ("pyproject.toml", "docs/conf.py", "CITATION.cff"):
        assert not re.search(rf"(?<![\d.]){re.escape(ml.__version__)}(?![\d.])", read(name)), name


def test_the_changelog_has_this_version_and_what_is_not_released_comes_first():
    headings = re.findall(r"^## \[([^\]]+)\]", read("CHANGELOG.md"), re.MULTILINE)
    assert headings[0] == "Unreleased"
    assert headings[1] == ml.__version__
    kinds = set(re.findall(r"^### (.+)$", read("CHANGELOG.md"), re.MULTILINE))
    assert kinds <= {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}


def test_the_citation_names_what_it_has_to():
    citation = yaml.safe_load(read("CITATION.cff"))
    assert {"cff-version", "message", "title", "authors"} <= citation.keys()
    assert citation["authors"] == PROJECT["project"]["authors"]
    assert citation["license"] == PROJECT["project"]["license"]


def test_issues_ask_in_forms_that_can_be_filled_in():
    forms = sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"))
    assert [form.stem for form in forms] == ["bug", "feature", "question"]
    for form in forms:
        content = yaml.safe_load(form.read_text(encoding="utf-8"))
        assert {"name", "description", "body"} <= content.keys()
        fields = [field["id"] for field in content["body"]]
        assert len(set(fields)) == len(fields)
        assert any(field.get("validations", {}).get("required") for field in content["body"])


def test_workflows_run_scripts_that_are_there():
    assert [path.stem for path in WORKFLOWS] == ["docs", "publish", "test"]
    scripts = {script for path in WORKFLOWS for script in re.findall(r"bash (\S+\.sh)", path.read_text("utf-8"))}
    assert {"scripts/test.sh", "scripts/lowest.sh", "scripts/docs.sh", "scripts/wheel.sh"} <= scripts
    assert all((ROOT / script).exists() for script in scripts)


def test_every_python_that_is_supported_is_tested():
    jobs = yaml.safe_load((ROOT / ".github" / "workflows" / "test.yml").read_text(encoding="utf-8"))["jobs"]
    label = "Programming Language :: Python :: 3."
    supported = [line for line in PROJECT["project"]["classifiers"] if line.startswith(label)]
    assert [line.rsplit(" ")[-1] for line in supported] == jobs["quick"]["strategy"]["matrix"]["python"]
    assert PROJECT["project"]["requires-python"] == f">={jobs['quick']['strategy']['matrix']['python'][0]}"


def test_a_release_is_checked_before_it_is_uploaded_without_a_password():
    path = ROOT / ".github" / "workflows" / "publish.yml"
    jobs = yaml.safe_load(path.read_text(encoding="utf-8"))["jobs"]
    assert jobs["upload"]["needs"] == "build"
    assert jobs["upload"]["permissions"] == {"id-token": "write"}
    assert any(step.get("run") == "bash scripts/wheel.sh" for step in jobs["build"]["steps"])
    assert "-m twine check --strict dist/*" in read("scripts/wheel.sh")
    assert "secrets." not in path.read_text(encoding="utf-8")


def test_checks_before_a_commit_are_those_of_the_guide():
    hooks = yaml.safe_load(read(".pre-commit-config.yaml"))["repos"][0]["hooks"]
    commands = {line for text in listings(CONTRIBUTING, "bash") for line in text.splitlines()}
    assert {hook["entry"] for hook in hooks} == {line for line in commands if line.startswith("python -m")}


def test_the_small_selection_is_there():
    for name in read("tests/small_selection.txt").splitlines():
        assert (ROOT / name).exists(), name


def test_packages_brought_by_others_are_tested_at_their_lowest_too():
    from test_dependencies import BROUGHT

    lines = [line for line in read("scripts/brought.txt").splitlines() if not line.startswith("#")]
    assert {re.match(r"[\w-]+", line)[0] for line in lines} == BROUGHT.keys()
