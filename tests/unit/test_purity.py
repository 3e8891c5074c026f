"""What no linter of ours says: pure rooms stay pure, and every claim is written down."""

from __future__ import annotations

import ast
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[2]
PACKAGE = PROJECT / "instance_manager"
CONTRACT = "pure rooms do no input or output"
FORBIDDEN_CALLS = frozenset({"open", "input", "print", "exec", "eval", "breakpoint", "__import__"})
FORBIDDEN_ATTRIBUTES = frozenset(
    {
        "environ",
        "getenv",
        "sleep",
        "cwd",
        "home",
        "expanduser",
        "resolve",
        "absolute",
        "exists",
        "is_file",
        "is_dir",
        "is_symlink",
        "stat",
        "lstat",
        "iterdir",
        "glob",
        "rglob",
        "open",
        "read_text",
        "read_bytes",
        "write_text",
        "write_bytes",
        "unlink",
        "mkdir",
        "touch",
        "stdin",
        "stdout",
        "stderr",
        "argv",
    }
)
"""The environment, the streams and the file system, by whichever object they are reached."""
CLOCKS = frozenset({"now", "utcnow", "today", "monotonic", "perf_counter", "time_ns"})
"""Methods that tell the time; a value may have a field of such a name."""
FORBIDDEN_MODULES = frozenset(
    {
        "asyncio",
        "io",
        "multiprocessing",
        "os",
        "random",
        "secrets",
        "shutil",
        "socket",
        "subprocess",
        "sys",
        "tempfile",
        "threading",
        "time",
        "uuid",
    }
)


def pure_modules() -> list[str]:
    """Return the modules that the import contract calls pure."""
    configuration = tomllib.loads((PROJECT / "pyproject.toml").read_text())
    contracts = configuration["tool"]["importlinter"]["contracts"]
    modules: list[str] = next(
        one["source_modules"] for one in contracts if one["name"] == CONTRACT
    )
    return modules


def source_of(module: str) -> Path:
    return PROJECT.joinpath(*module.split(".")).with_suffix(".py")


def modules_of_the_package() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def files_of_tests() -> list[Path]:
    return sorted((PROJECT / "tests").rglob("test_*.py"))


def impurities(source: str) -> Iterator[str]:
    """Yield what in a module's source waits, reads, writes, or asks the world."""
    for node in ast.walk(ast.parse(source)):
        found = impurity(node)
        if found:
            yield f"line {getattr(node, 'lineno', 0)}: {found}"


def impurity(node: ast.AST) -> str:
    match node:
        case ast.AsyncFunctionDef() | ast.AsyncFor() | ast.AsyncWith() | ast.Await():
            found = type(node).__name__
        case ast.comprehension(is_async=1):
            found = "an asynchronous comprehension"
        case ast.Call(func=ast.Name(id=name)) if name in FORBIDDEN_CALLS:
            found = f"a call of {name}()"
        case ast.Call(func=ast.Attribute(attr=name)) if name in CLOCKS:
            found = f"a call of {name}()"
        case ast.Attribute(attr=name) if name in FORBIDDEN_ATTRIBUTES:
            found = f"the attribute {name}"
        case ast.Import(names=names):
            found = next((_refused(each.name) for each in names if _refused(each.name)), "")
        case ast.ImportFrom(module=str(name)):
            found = _refused(name)
        case _:
            found = ""
    return found


def _refused(module: str) -> str:
    top = module.partition(".")[0]
    return f"an import of {module}" if top in FORBIDDEN_MODULES else ""


@pytest.mark.parametrize("module", pure_modules())
def test_a_pure_module_waits_for_nothing_and_asks_nobody(module: str) -> None:
    """No await, no file, no environment, no clock: values in, values out."""
    assert list(impurities(source_of(module).read_text(encoding="utf-8"))) == []


@pytest.mark.parametrize(
    "source",
    [
        "async def f(): pass",
        "with open('x') as file: pass",
        "from pathlib import Path\nPath('x').read_text()",
        "import os\n",
        "from os import environ",
        "from datetime import datetime\ndatetime.now()",
        "import time as clock",
        "def f(path): return path.exists()",
        "[x async for x in y]",
        "import os.path",
    ],
)
def test_the_check_sees_what_it_is_for(source: str) -> None:
    """Each way out of a pure room is found."""
    assert list(impurities(source))


@pytest.mark.parametrize("source", ["x = sorted([2, 1])", "from pathlib import Path", "a.parent"])
def test_the_check_lets_values_through(source: str) -> None:
    """A path is a value as long as nobody looks where it leads."""
    assert list(impurities(source)) == []


def test_the_contract_names_modules_that_are_there() -> None:
    """A module that was renamed does not drop out of the check unseen."""
    assert pure_modules()
    assert [name for name in pure_modules() if not source_of(name).is_file()] == []


def test_a_module_that_calls_itself_pure_is_under_the_contract() -> None:
    """The word in a docstring is a promise that is checked."""
    listed = {source_of(name) for name in pure_modules()}
    claims = {
        path
        for path in modules_of_the_package()
        if "Pure." in (ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "")
    }

    assert sorted(str(path.relative_to(PROJECT)) for path in claims - listed) == []


def test_every_module_says_what_it_is() -> None:
    """The docstring of a module says what room it is."""
    silent = [
        str(path.relative_to(PROJECT))
        for path in modules_of_the_package()
        if not ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    ]

    assert silent == []


def test_every_test_says_its_claim() -> None:
    """A test without a sentence is a test that nobody can judge."""
    silent = [
        f"{path.relative_to(PROJECT)}:{node.lineno} {node.name}"
        for path in files_of_tests()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.name.startswith("test_")
        and not ast.get_docstring(node)
    ]

    assert silent == []


def test_no_two_tests_of_a_file_have_the_same_name() -> None:
    """The second one would hide the first."""
    doubles = [
        f"{path.relative_to(PROJECT)} {name}"
        for path in files_of_tests()
        for names in [_names(path)]
        for name in sorted(set(names))
        if names.count(name) > 1
    ]

    assert doubles == []


def _names(path: Path) -> list[str]:
    body = ast.parse(path.read_text(encoding="utf-8")).body
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    return [node.name for node in body if isinstance(node, functions)]
