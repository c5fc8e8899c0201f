"""What may import what: the rules of docs/architecture.md, read from the source; start-up without torch."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("ptycho", "ptycho_torch")

# Module prefix -> what it may not import at module level. A prefix ends at a dot.
FORBIDDEN = {
    "ptycho": ("torch", "lightning", "pytorch_lightning", "matplotlib", "ptycho_torch"),
    "ptycho_torch.physics": (
        "lightning",
        "ptycho",
        "ptycho_torch.config_params",
        "ptycho_torch.config_bridge",
        "ptycho_torch.config_factory",
        "ptycho_torch.generators",
        "ptycho_torch.solvers",
        "ptycho_torch.data",
        "ptycho_torch.model",
        "ptycho_torch.callbacks",
        "ptycho_torch.lightning_utils",
        "ptycho_torch.reassembly",
        "ptycho_torch.workflows",
        "ptycho_torch.api",
    ),
}
# Module prefix -> the only modules of ours that it may import at module level, beside ptycho.errors.
ALLOWED = {
    "ptycho_torch.solvers": ("ptycho_torch.physics", "ptycho_torch.solvers"),
    "ptycho_torch.generators": (
        "ptycho_torch.physics",
        "ptycho_torch.generators",
        "ptycho_torch.config_params",
    ),
}
KNOW_LIGHTNING = (
    "ptycho_torch.model",
    "ptycho_torch.callbacks",
    "ptycho_torch.lightning_utils",
    "ptycho_torch.data",
    "ptycho_torch.workflows",
    "ptycho_torch.api",
)


def under(name, prefix):
    return name == prefix or name.startswith(prefix + ".")


def module_files():
    """Dotted name -> file, for every module of both packages."""
    found = {}
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = module_files()


def is_type_checking(node):
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)


def imports_of(body):
    """Names imported when these statements run, without function bodies and TYPE_CHECKING blocks.

    `from a import b` counts as a.b where that is a module, else as a.
    """
    for node in body:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) or is_type_checking(node):
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports are not used here"
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                yield full if full in MODULES else node.module
        else:
            for _, value in ast.iter_fields(node):
                if isinstance(value, list):
                    yield from imports_of(
                        [part for part in value if isinstance(part, (ast.stmt, ast.excepthandler))]
                    )


def module_level_imports(name):
    return sorted(set(imports_of(ast.parse(MODULES[name].read_text(encoding="utf-8")).body)))


GRAPH = {name: module_level_imports(name) for name in MODULES}


def violations(test):
    return [
        f"{name} imports {target}"
        for name, targets in GRAPH.items()
        for target in targets
        if test(name, target)
    ]


def test_the_reader_of_imports_sees_what_it_should():
    source = (
        "import a\n"
        "from typing import TYPE_CHECKING\n"
        "if TYPE_CHECKING:\n    import hidden\n"
        "else:\n    pass\n"
        "try:\n    import b\nexcept ImportError:\n    import c\n"
        "class K:\n    import d\n"
        "def f():\n    import e\n"
    )
    assert set(imports_of(ast.parse(source).body)) == {"a", "typing", "b", "c", "d"}


def test_there_is_something_to_check():
    assert "ptycho.cli.main" in MODULES and "ptycho_torch.physics.detector" in MODULES


@pytest.mark.parametrize("prefix", FORBIDDEN)
def test_forbidden_imports(prefix):
    def broken(name, target):
        # ptycho.errors is the exception family of both packages.
        return (
            under(name, prefix)
            and any(under(target, f) for f in FORBIDDEN[prefix])
            and not under(target, "ptycho.errors")
        )

    assert violations(broken) == []


@pytest.mark.parametrize("prefix", ALLOWED)
def test_solvers_and_generators_know_physics_only(prefix):
    def broken(name, target):
        ours = any(under(target, package) for package in PACKAGES)
        allowed = (*ALLOWED[prefix], "ptycho.errors")
        return under(name, prefix) and ours and not any(under(target, a) for a in allowed)

    assert violations(broken) == []


def test_only_the_listed_modules_know_lightning():
    def broken(name, target):
        lightning = under(target, "lightning") or under(target, "pytorch_lightning")
        return lightning and not any(under(name, known) for known in KNOW_LIGHTNING)

    assert violations(broken) == []


def test_nothing_imports_a_command_line():
    """But a command line: that of the backend shares the options of the other."""

    def broken(name, target):
        if under(target, "ptycho.cli") and under(name, "ptycho_torch.cli"):
            return False
        return any(under(target, f"{p}.cli") and not under(name, f"{p}.cli") for p in PACKAGES)

    assert violations(broken) == []


def test_no_import_cycles():
    """Depth-first search over the modules' own imports (not those of their parent packages)."""
    done, path = set(), []

    def visit(name):
        if name in path:
            pytest.fail("import cycle: " + " -> ".join([*path[path.index(name) :], name]))
        if name in done:
            return
        path.append(name)
        for target in GRAPH[name]:
            if target in GRAPH and target != name:
                visit(target)
        path.pop()
        done.add(name)

    for name in GRAPH:
        visit(name)
    assert done == set(GRAPH)


def run_python(code):
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert result.returncode == 0, result.stderr
    return result.stdout.split()


def test_importing_every_module_of_the_neutral_half_takes_no_torch():
    names = [name for name in MODULES if under(name, "ptycho")]
    loaded = run_python(
        f"import importlib, sys\nfor name in {names!r}: importlib.import_module(name)\nprint(*sys.modules)"
    )
    assert len(names) > 20 and set(names) <= set(loaded)
    assert {"torch", "lightning", "matplotlib", "ptycho_torch"} & set(loaded) == set()


def test_the_command_starts_without_heavy_imports():
    loaded = run_python("import ptycho.cli.main, sys; print(*sys.modules)")
    assert {"torch", "lightning", "matplotlib", "numpy", "scipy", "skimage", "h5py"} & set(loaded) == set()


def test_help_is_shown_without_heavy_imports():
    """Listing the verbs imports each of them; none may pull in what only running it needs."""
    loaded = run_python(
        "import sys, contextlib, io\n"
        "from ptycho.cli.main import cli\n"
        "with contextlib.redirect_stdout(io.StringIO()):\n"
        "    cli(['--help'], standalone_mode=False)\n"
        "print(*sys.modules)"
    )
    assert "ptycho.cli.train" in loaded
    assert {"torch", "lightning", "matplotlib", "numpy"} & set(loaded) == set()
