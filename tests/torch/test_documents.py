"""The documents: their examples run, and the tests, files and flags that they name are there."""

import ast
import re
import shlex
from functools import cache
from pathlib import Path

import pytest

from ptycho.cli import infer, older, train
from ptycho.cli.demo import demo
from ptycho.cli.evaluate import evaluate
from ptycho.cli.options import HeadedOption
from ptycho.diffsim import simulate_demo_scan
from ptycho_torch.cli.inference import inference as module_inference
from ptycho_torch.cli.train import train as module_train

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted(
    path.relative_to(ROOT).as_posix()
    for pattern in ("*.md", "docs/**/*.md", "specs/*.md", "plans/**/*.md")
    for path in ROOT.glob(pattern)
)
GUIDE = "docs/workflows/pytorch.md"


def text_of(page):
    return (ROOT / page).read_text(encoding="utf-8")


def blocks(page, under=None):
    """(line, code) of the Python blocks of a page, or of those below one heading."""
    text = text_of(page)
    start = 0 if under is None else text.index(f"## {under}\n")
    found = re.finditer(r"```python\n(.*?)```", text[start:], re.DOTALL)
    return [(text.count("\n", 0, start + match.start(1)), match.group(1)) for match in found]


def run(page, code_blocks, **known):
    """Execute blocks one after the other in one namespace; an error names the page and its line."""
    names = {"__name__": "document", **known}
    for line, code in code_blocks:
        exec(compile("\n" * line + code, page, "exec"), names)
    return names


# ---------------------------------------------------------------------- examples


def test_the_examples_of_the_guide_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    found = blocks(GUIDE)
    names = run(GUIDE, found)
    said = capsys.readouterr().out
    assert len(found) >= 12
    # what the page says of its own output
    assert "2 overrides data file execution_config default" in text_of(GUIDE)
    assert "2 overrides data file execution_config default" in said
    assert "the model was trained with stages=1, found the override stages=5" in said
    assert names["results"]["backend"] == "pytorch" and names["patches"].shape == (60, 1, 32, 32)
    assert len(names["run"].scans) == 1 and "epoch 0" in said
    # what it says of the files
    left = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}
    assert {name for name in left if name.startswith("results/")} == {
        "results/wts.h5.zip", "results/metrics.csv", "results/checkpoints/best-poisson_val.ckpt",
        "results/checkpoints/last.ckpt",
    }  # fmt: skip
    assert {name.partition("/")[0] for name in left} == {
        "scan.npz", "results", "cnn", "both", "again", "copy", "with_callback", "selected", "trained",
    }  # fmt: skip
    # and what the specification says of the results
    table = text_of("specs/ptychodus_api_spec.md").partition("The results are a dict:")[2].partition("\n\n**")[0]
    first_cells = [line.split("|")[1] for line in table.splitlines() if line.startswith("| `")]
    assert set(names["results"]) == {key for cell in first_cells for key in re.findall(r"`(\w+)`", cell)}


@pytest.mark.parametrize(("page", "number"), [("README.md", 2), ("docs/CONFIGURATION.md", 1)])
def test_the_examples_of_the_other_pages_run(page, number, tmp_path, monkeypatch, capsys):
    """With one epoch instead of many, and a small scan."""
    monkeypatch.chdir(tmp_path)
    for name, seed in (("scan.npz", 0), ("other_scan.npz", 1)):
        simulate_demo_scan(seed, n_frames=16, N=64).to_file(name)
    found = [(line, re.sub(r"epochs=\d+", "epochs=1", code)) for line, code in blocks(page, "From Python")]
    assert len(found) == number and "nepochs=1" in found[0][1]
    names = run(page, found)
    assert names["outcome"].result.object.ndim == 2
    assert Path("results/wts.h5.zip").is_file()
    if page == "README.md":
        assert Path("refined/reconstruction.npz").is_file() and list(names["refined"].stages) == ["start", "refined"]
        # one epoch of sixteen frames leaves the object much as it was
        assert names["comparison"].phase_correlation > 0.9
        assert f"{names['comparison'].phase_correlation:.3f}" in capsys.readouterr().out


# ---------------------------------------------------------------------- what is named is there


ARGUMENTS = re.compile(r"test_(data|container)\w*")  # no tests, for all their names


@cache
def known_tests():
    """File -> names of its tests, as `name` and `Class::name`, and of its test classes."""
    found = {}
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        names = set()
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test"):
                names.add(node.name)
            if isinstance(node, ast.ClassDef) and node.name.startswith("Test"):
                methods = [n.name for n in node.body if isinstance(n, ast.FunctionDef) and n.name.startswith("test")]
                names |= {node.name, *methods, *(f"{node.name}::{method}" for method in methods)}
        found[path.relative_to(ROOT).as_posix()] = names
    return found


def in_code(page):
    """Everything between backticks in the text of a page, without its blocks of code."""
    return re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", text_of(page), flags=re.DOTALL))


@pytest.mark.parametrize("page", PAGES)
def test_the_tests_that_a_page_names_are_there(page):
    """`tests/x/test_y.py::name`, `test_y.py::name`, and `test_name` or `TestName` by themselves."""
    files = known_tests()
    by_name = {Path(path).name: path for path in files}
    anywhere = set().union(*files.values())
    missing = []
    for word in in_code(page):
        match = re.fullmatch(r"((?:tests/)?[\w/]*test_\w+\.py)(?:::([\w:]+))?", word)
        if match:
            path = by_name.get(Path(match.group(1)).name)
            there = path is not None and (match.group(2) is None or match.group(2) in files[path])
            # a path that is written out must be the right one
            there = there and (not match.group(1).startswith("tests/") or match.group(1) in files)
        elif re.fullmatch(r"(test_\w+|Test\w+)(::test_\w+)?", word) and not ARGUMENTS.fullmatch(word):
            there = word in anywhere or f"{word}.py" in by_name
        else:
            continue
        if not there:
            missing.append(word)
    assert missing == []


def test_the_testing_guide_names_every_file_of_tests():
    named = text_of("docs/TESTING_GUIDE.md")
    missing = [path for path in known_tests() if path not in named and f"`{Path(path).name}`" not in named]
    assert missing == []


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page):
    targets = re.findall(r"\]\(([^)#]+)[^)]*\)", text_of(page))
    missing = [t for t in targets if "://" not in t and not ((ROOT / page).parent / t).exists()]
    assert missing == []


def test_the_index_leads_to_every_page():
    found = {
        (ROOT / "docs" / target).resolve().relative_to(ROOT).as_posix()
        for target in re.findall(r"\]\(([^)#]+)\)", text_of("docs/index.md"))
    }
    reference = {page for page in PAGES if page.startswith("docs/api/")}  # its index leads to these
    assert set(PAGES) - found - (reference - {"docs/api/index.md"}) <= {"docs/index.md"}


@pytest.mark.parametrize("page", PAGES)
def test_pages_are_plain_text(page):
    assert text_of(page).isascii()


COMMANDS = {
    "ptychopinn train": train.train,
    "ptychopinn infer": infer.infer,
    "ptychopinn evaluate": evaluate,
    "ptychopinn demo": demo,
    "ptycho_train": older.ptycho_train,
    "ptycho_inference": older.ptycho_inference,
    "python -m ptycho_torch.train": module_train,
    "python -m ptycho_torch.inference": module_inference,
}


def flags_of(name):
    """The spellings that the help text of a command shows."""
    options = [p for p in COMMANDS[name].params if hasattr(p, "secondary_opts") and p.param_type_name == "option"]
    aliases = [
        a for p in options if isinstance(p, HeadedOption) and not name.startswith("ptychopinn") for a in p.aliases
    ]
    return {*(flag for p in options for flag in (*p.opts, *p.secondary_opts)), *aliases, "--help"}


@pytest.mark.parametrize("page", PAGES)
def test_flags_of_example_commands_are_there(page):
    for block in re.findall(r"```(?:yaml|bash)?\n(.*?)```", text_of(page), re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            line = line.lstrip("# ").removeprefix(".venv/bin/")
            name = next((name for name in COMMANDS if line.startswith(name + " ")), None)
            if name is not None:
                given = {word.partition("=")[0] for word in shlex.split(line, comments=True) if word.startswith("--")}
                assert given <= flags_of(name), line
