"""The house rules that a program can check: public names, import cost, headers, the wheel, sizes, words."""

from __future__ import annotations

import ast
import json
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import packages_distributions
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

import llmrec

ROOT = Path(__file__).resolve().parents[1]
CODE_FOLDERS = ("llmrec", "finetune", "eval", "agents", "examples", "tests")
HEAVY = (
    "torch",
    "transformers",
    "langchain_core",
    "langgraph",
    "datasets",
    "pyarrow",
    "numpy",
    "scipy",
    "sklearn",
    "matplotlib",
)
MAX_LINES = 500
MAX_BYTES = 1_000_000


def tracked() -> list[Path]:
    """Files of the repository: what git knows or would add; without git, all but hidden and build folders."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    try:
        listed = subprocess.run(command, cwd=ROOT, capture_output=True, check=True).stdout.decode().split("\0")
        names = [name for name in listed if name]
    except (OSError, subprocess.CalledProcessError):
        skipped = re.compile(r"(^|/)(\.(?!ci|gitignore)[^/]*|__pycache__|build|dist|runs|[^/]*\.egg-info)(/|$)")
        names = [str(path.relative_to(ROOT)) for path in ROOT.rglob("*")]
        names = [name for name in names if not skipped.search(name)]
    return sorted(ROOT / name for name in set(names) if (ROOT / name).is_file())


TRACKED = tracked()
SOURCES = [path for path in TRACKED if path.suffix == ".py" and path.relative_to(ROOT).parts[0] in CODE_FOLDERS]


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def faults(found: list[str]) -> None:
    assert not found, "\n".join(found)


# -- public names ------------------------------------------------------------------------------------------------------


def test_every_public_name_can_be_had_and_nothing_else_is_public() -> None:
    imports_of_the_file = {"TYPE_CHECKING", "Any", "annotations"}
    names = {name for name in dir(llmrec) if not name.startswith("_")} - imports_of_the_file
    reachable = {name for name in names if not isinstance(getattr(llmrec, name), ModuleType)}
    assert reachable | {"__version__"} == set(llmrec.__all__)


def test_at_most_ten_names_are_public() -> None:
    names = [name for name in llmrec.__all__ if name != "__version__"]
    assert len(names) == len(set(names)) <= 10
    assert llmrec.__all__ == sorted(llmrec.__all__)


def test_static_and_lazy_imports_agree() -> None:
    """What type checkers see under TYPE_CHECKING is what `__getattr__` gives."""
    tree = ast.parse((ROOT / "llmrec/__init__.py").read_text(encoding="utf-8"))
    static = {
        (alias.name, node.module)
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("llmrec.")
        for alias in node.names
    }
    assert static == set(llmrec._HOMES.items())
    assert {name for name, _ in static} | {"__version__"} == set(llmrec.__all__)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'recommend_everything'"):
        _ = llmrec.recommend_everything


@pytest.mark.parametrize("module", ["llmrec", "llmrec.cli.main", "llmrec.errors", "llmrec.seeding", "llmrec.assets"])
def test_importing_brings_nothing_heavy(module: str) -> None:
    allowed = {"numpy"} if module == "llmrec.seeding" else set()
    code = f"import sys, {module}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert not (set(HEAVY) - allowed) & set(done.stdout.split())
    assert done.stderr == ""


def test_command_modules_bring_nothing_heavy() -> None:
    modules = [f"llmrec.cli.{path.stem}" for path in (ROOT / "llmrec/cli").glob("*.py") if path.stem != "__init__"]
    code = f"import sys, {', '.join(modules)}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert not set(HEAVY) & set(done.stdout.split())


# -- headers and docstrings --------------------------------------------------------------------------------------------


def test_every_module_says_what_it_is_for() -> None:
    """Empty `__init__.py` files have nothing to say, and the names of tests say it themselves."""
    modules = [path for path in SOURCES if path.relative_to(ROOT).parts[0] != "tests"]
    trees = {path: ast.parse(path.read_text(encoding="utf-8")) for path in modules}
    faults([name_of(path) for path, tree in trees.items() if tree.body and not ast.get_docstring(tree)])


def test_package_folders_export_nothing() -> None:
    """The import path is the file path: `__init__.py` holds a docstring only."""
    inits = [path for path in SOURCES if path.name == "__init__.py" and path.parent != ROOT / "llmrec"]
    bodies = {path: ast.parse(path.read_text(encoding="utf-8")).body for path in inits}
    faults([name_of(path) for path, body in bodies.items() if len(body) > 1])
    assert inits


def test_run_folders_are_no_packages() -> None:
    """A top-level package called `agents` or `eval` would overwrite other people's."""
    folders = ("agents", "finetune", "eval", "prompts", "examples")
    faults(
        [name_of(path) for path in TRACKED if path.name == "__init__.py" and path.relative_to(ROOT).parts[0] in folders]
    )


def test_every_prompt_opens_with_purpose_variables_and_callers() -> None:
    prompts = sorted((ROOT / "prompts").rglob("*.jinja"))
    assert prompts
    faults(
        [f"{name_of(path)}: {fault}" for path in prompts if (fault := _header_fault(path.read_text(encoding="utf-8")))]
    )


def _header_fault(text: str) -> str:
    header = re.match(r"\{#-?(.*?)-?#\}", text, re.DOTALL)
    if header is None:
        return "does not open with a {# #} header"
    missing = [key for key in ("purpose", "variables", "called by") if f"{key}:" not in header[1].lower()]
    return f"header lacks {', '.join(missing)}" if missing else ""


def test_a_prompt_without_header_would_be_found() -> None:
    assert _header_fault("Hello {{ name }}")
    assert _header_fault("{# purpose: x #}\nHello")
    assert not _header_fault("{# Purpose: x\nVariables: none\nCalled by: y #}\nHello")


def test_every_prompt_is_called_where_its_header_says() -> None:
    found: list[str] = []
    for path in sorted((ROOT / "prompts").rglob("*.jinja")):
        header = path.read_text(encoding="utf-8").split("#}")[0]
        callers = re.findall(r"llmrec(?:[./][a-z_]+)+", header[header.lower().find("called by:") :])
        if not callers:
            found.append(f"{name_of(path)}: names no caller")
        found += [f"{name_of(path)}: no module {caller}" for caller in callers if not _module_exists(caller)]
    faults(found)


def _module_exists(dotted: str) -> bool:
    """Whether `llmrec.a.b`, `llmrec.a.b.function` or `llmrec/a/b.py` is there."""
    parts = dotted.removesuffix(".py").replace("/", ".").split(".")
    return any((ROOT / f"{'/'.join(parts[:n])}.py").is_file() for n in range(2, len(parts) + 1))


@pytest.mark.parametrize(
    "path",
    [
        *sorted(ROOT.glob("finetune/*.yaml")),
        *sorted(ROOT.glob("eval/*.yaml")),
        *sorted(ROOT.glob("agents/*/agent.yaml")),
    ],
    ids=name_of,
)
def test_every_settings_file_opens_with_its_command(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert re.match(r"# .*\b(llmrec|langgraph|accelerate|python) \S", text)
    assert isinstance(yaml.safe_load(text), dict)


@pytest.mark.parametrize("path", sorted(ROOT.glob("finetune/*.py")), ids=name_of)
def test_every_script_is_short_and_shows_its_command(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert re.search(r"^ {4}(llmrec|python|accelerate) ", ast.get_docstring(ast.parse(text)) or "", re.MULTILINE)
    assert len(text.splitlines()) <= 400


def test_langgraph_json_points_at_graphs_that_exist() -> None:
    settings = json.loads((ROOT / "langgraph.json").read_text(encoding="utf-8"))
    assert settings["graphs"]
    for target in settings["graphs"].values():
        file, name = target.split(":")
        assert name in _top_level_names(ROOT / file), f"{target}: no such name"


def _top_level_names(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
        if isinstance(node, ast.Assign):
            names |= {target.id for target in node.targets if isinstance(target, ast.Name)}
    return names


# -- sizes and words ---------------------------------------------------------------------------------------------------


def test_no_source_file_is_long() -> None:
    lengths = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in SOURCES}
    faults([f"{name_of(path)}: {n} lines, at most {MAX_LINES}" for path, n in lengths.items() if n > MAX_LINES])


def test_no_tracked_file_is_large() -> None:
    faults([name_of(path) for path in TRACKED if path.stat().st_size > MAX_BYTES])


FORBIDDEN = {
    "a path of one machine": re.compile(r"(?<![\w.}-])/(?:root|work|home/\w+|Users/\w+|opt/\w+)/\w"),
    "a merge conflict": re.compile(r"^(?:<{7}|>{7}) ", re.MULTILINE),
    "an address with a password": re.compile(r"https?://[^\s/{}'\"@]+:[^\s/{}'\"@]+@"),
    "a key": re.compile(r"\b(?:sk-[A-Za-z0-9]{20}|hf_[A-Za-z]{20}|ghp_[A-Za-z0-9]{20}|AKIA[A-Z0-9]{16})"),
    "a working paper that is not shipped": re.compile(
        r"\b(?:DESIGN|STYLE|ECOSYSTEM)[.]md\b|\bmethods?[ /](?:card|core)\b"
    ),
    "unfinished work": re.compile(r"\b(?:TO" + r"DO|FIX" + r"ME|XX" + r"X)\b"),
}


def test_no_tracked_file_says_what_must_not_be_said() -> None:
    found: list[str] = []
    for path in TRACKED:
        if path.suffix in {".png", ".safetensors"} or path == Path(__file__).resolve():
            continue
        text = path.read_text(encoding="utf-8")
        for what, pattern in FORBIDDEN.items():
            found += [
                f"{name_of(path)}:{text.count(chr(10), 0, hit.start()) + 1}: {what}: {hit[0]!r}"
                for hit in pattern.finditer(text)
            ]
    faults(found)


@pytest.mark.parametrize(
    ("what", "text"),
    [
        ("a path of one machine", "open('/home/ann/data')"),
        ("a merge conflict", "<<<<<<< ours"),
        ("an address with a password", "https://ann:secret@host.example/x"),
        ("a working paper that is not shipped", "see the methods card 3.5"),
    ],
)
def test_forbidden_words_would_be_found(what: str, text: str) -> None:
    assert FORBIDDEN[what].search(text)


# -- installation ------------------------------------------------------------------------------------------------------


def test_constraints_pin_every_dependency_exactly() -> None:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    faults([line for line in pins if not re.fullmatch(r"[A-Za-z0-9._-]+==[0-9][0-9a-z.]*", line)])
    pinned = {_normal(line.split("==")[0]) for line in pins}
    meta = project()["project"]
    wanted = [*meta["dependencies"], *meta["optional-dependencies"]["dev"]]
    assert {_normal(re.split(r"[\[<>=]", name)[0]) for name in wanted} <= pinned
    assert pins[0].startswith("torch==")


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


INDIRECT = {"accelerate", "tensorboard"}
"""Needed by the trainers of transformers, imported by no file of ours."""


def test_what_is_imported_is_declared_and_what_is_declared_is_imported() -> None:
    """Only core dependencies: extras are imported where they are optional, tools of `dev` by tests."""
    meta = project()["project"]
    extras = [name for group in meta["optional-dependencies"].values() for name in group]
    core, optional = (
        {_normal(re.split(r"[\[<>=]", name)[0]) for name in group} for group in (meta["dependencies"], extras)
    )
    homes = packages_distributions()
    library = [path for path in SOURCES if path.relative_to(ROOT).parts[0] not in ("tests", "examples")]
    found = {top: path for path in library for top in _imports(path) if top not in sys.stdlib_module_names | {"llmrec"}}
    owners = {top: {_normal(name) for name in homes.get(top, [top])} for top in found}
    tools = {"hypothesis", "pytest"}  # llmrec.testing ships contract tests
    faults([f"{name_of(found[top])}: {top}" for top, own in owners.items() if not own & (core | optional | tools)])
    used = {name for own in owners.values() for name in own}
    assert core - used - INDIRECT == set()


def _imports(path: Path) -> set[str]:
    nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
    plain = {alias.name.split(".")[0] for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    return plain | {(n.module or "").split(".")[0] for n in nodes if isinstance(n, ast.ImportFrom) and n.level == 0}


def test_every_dependency_is_explained() -> None:
    text = (ROOT / "docs/dependencies.md").read_text(encoding="utf-8")
    meta = project()["project"]
    wanted = [*meta["dependencies"], *(name for group in meta["optional-dependencies"].values() for name in group)]
    names = {re.split(r"[\[<>=]", name)[0] for name in wanted}
    explained = set(re.findall(r"^\| `([^`]+)` \|", text, re.MULTILINE))
    assert names == explained


def test_every_command_is_documented() -> None:
    from llmrec.cli.main import COMMANDS

    text = (ROOT / "docs/cli.md").read_text(encoding="utf-8")
    headings = re.findall(r"^## `llmrec (\w+)", text, re.MULTILINE)
    assert set(headings) == set(COMMANDS)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel of the tracked files, built in a folder of its own, so that nothing stale of this checkout enters it."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for path in TRACKED:
        copy = source / path.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, copy)
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        "-w",
        str(out),
        str(source),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (built,) = out.glob("llmrec-*.whl")
    return built


def test_the_wheel_holds_everything_a_person_edits(wheel: Path) -> None:
    inside = set(zipfile.ZipFile(wheel).namelist())
    expected = {
        f"llmrec/_assets/{path.relative_to(ROOT).as_posix()}"
        for path in TRACKED
        if (path.relative_to(ROOT).parts[0], path.suffix)
        in {("prompts", ".jinja"), ("agents", ".py"), ("agents", ".yaml"), ("finetune", ".py"), ("finetune", ".yaml")}
    }
    data = {name_of(path) for path in TRACKED if name_of(path).startswith("llmrec/") and path.suffix != ".md"}
    assert expected
    assert expected <= inside
    assert data <= inside
    assert any(name.endswith("licenses/LICENSE") for name in inside)
    assert {name.split("/")[0] for name in inside} == {"llmrec", f"llmrec-{llmrec.__version__}.dist-info"}


def test_an_unpacked_wheel_finds_and_renders_its_prompts(wheel: Path, tmp_path: Path) -> None:
    zipfile.ZipFile(wheel).extractall(tmp_path)
    code = (
        "import llmrec, llmrec.assets as a, llmrec.prompting as p; "
        "print(llmrec.__file__); print(a.asset('prompts')); print(a.asset('finetune/sft.py')); "
        "print(a.asset('agents/recommender/graph.py')); print(p.render('recommender/calrec', items=['Title: Alien']))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={"PYTHONPATH": str(tmp_path), "PYTHONNOUSERSITE": "1", "PATH": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    package, *assets = done.stdout.splitlines()[:4]
    assert package == str(tmp_path / "llmrec" / "__init__.py")
    assert [path.startswith(str(tmp_path / "llmrec" / "_assets")) for path in assets] == [True, True, True]
    assert "Title: Alien" in done.stdout


def test_make_refuses_an_old_python(tmp_path: Path) -> None:
    old = tmp_path / "python"
    old.write_text('#!/bin/sh\n[ "$1" = --version ] && echo "Python 3.9.1"\nexit 1\n', encoding="utf-8")
    old.chmod(0o755)
    command = ["make", "install", f"PYTHON={old}", f"VENV={tmp_path / 'venv'}"]
    if shutil.which("make") is None:
        pytest.skip("make is not installed")
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "error: llmrec needs Python 3.11 or newer" in done.stderr
    assert not (tmp_path / "venv").exists()
