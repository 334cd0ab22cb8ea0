"""The rules of the code: imports, writing into arrays, documentation."""

from __future__ import annotations

import ast
import doctest
import graphlib
import importlib
import inspect
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

import seqcore

pytestmark = pytest.mark.host

ROOT = Path(seqcore.__file__).parent
PROJECT = tomllib.loads((ROOT.parent / "pyproject.toml").read_text(encoding="utf-8"))
ROOMS = list(PROJECT["tool"]["seqcore"]["rooms"])  # from the first to the last
# The rooms that may import an array library and work on its arrays as they like, some of them on
# copies on the host.
DOORS = {"arrays", "kernels", "random", "gradients", "files", "interop", "character", "cli"}
# The rooms that may import a module by a name that is known at run time only.
BY_NAME = {"arrays"}
ARRAY_LIBRARIES = {
    *("array_api_compat", "array_api_extra", "array_api_strict", "cupy", "dask", "jax"),
    *("mlx", "ndonnx", "numpy", "scipy", "sparse", "tensorflow", "torch"),
}


def room(name: str) -> str:
    """Return the room of a dotted name below seqcore: that of cells.lstm is cells."""
    return name.partition(".")[0]


def dotted(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


MODULES = {dotted(path): ast.parse(path.read_text(encoding="utf-8")) for path in ROOT.rglob("*.py")}
del MODULES["__init__"]
MODULES.pop("__main__", None)  # it only calls cli
each_module = pytest.mark.parametrize("name", sorted(MODULES))


def running(tree: ast.AST) -> Iterator[ast.AST]:
    """Walk over what runs: not into `if TYPE_CHECKING:`."""
    todo = [tree]
    while todo:
        node = todo.pop()
        yield node
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            todo += node.orelse
        else:
            todo += ast.iter_child_nodes(node)


def imported(nodes: Iterable[ast.AST]) -> Iterator[str]:
    """Yield the dotted names of what is imported; of `from a import b` a.b if it is ours."""
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: a relative import"
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                # From the package itself, what is not a module is a public name.
                own = node.module == "seqcore" or whole.partition(".")[2] in MODULES
                yield whole if own else node.module or ""
        elif isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            if called.endswith("import_module") or called == "__import__":
                name = node.args[0] if node.args else None
                known = isinstance(name, ast.Constant) and isinstance(name.value, str)
                yield name.value if known else "a name at run time"


def ours(nodes: Iterable[ast.AST]) -> set[str]:
    """Return which of our modules are imported, by their names below seqcore."""
    found = {name.partition(".")[2] for name in imported(nodes) if name.startswith("seqcore.")}
    return {name if name in MODULES else name.rpartition(".")[0] for name in found}


# --- imports ----------------------------------------------------------------------------


@each_module
def test_only_doors_import_array_libraries(name):
    if room(name) not in DOORS:
        found = {other.partition(".")[0] for other in imported(running(MODULES[name]))}
        assert not found & ARRAY_LIBRARIES


@each_module
def test_what_is_imported_is_known_before_it_runs(name):
    if room(name) not in BY_NAME:
        assert "a name at run time" not in imported(ast.walk(MODULES[name]))


def test_every_room_is_declared_and_there():
    assert {room(name) for name in MODULES} == set(ROOMS)


@each_module
def test_imports_point_up_the_rooms(name):
    here = room(name)
    # Under TYPE_CHECKING and by name too.
    for there in {room(other) for other in ours(ast.walk(MODULES[name]))} - {here, ""}:
        assert ROOMS.index(there) < ROOMS.index(here), f"{name} imports {there}"


@pytest.mark.parametrize("here", ROOMS)
def test_the_modules_of_a_room_import_each_other_in_one_direction(here):
    graph = {
        name: {other for other in ours(tree.body) if room(other) == here} - {name}
        for name, tree in MODULES.items()
        if room(name) == here
    }
    # A package's own name is asked for its modules, which does not load it anew.
    graph = {name: others - {here} for name, others in graph.items()}
    assert list(graphlib.TopologicalSorter(graph).static_order())  # or it raises CycleError


@each_module
def test_the_package_itself_is_asked_for_its_version_only(name):
    for node in running(MODULES[name]):
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "seqcore":
            assert node.attr == "__version__"


@pytest.mark.parametrize("path", sorted(ROOT.rglob("*.py")), ids=dotted)
def test_a_file_has_one_subject(path):
    # At about 250 lines a file may have two; docstrings of public functions are long.
    lines = path.read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 350


def test_importing_seqcore_imports_nothing_optional():
    optional = {
        *("matplotlib", "torch", "jax", "cupy", "sklearn", "tensorflow", "keras", "onnx"),
        *("mpi4py", "array_api_strict", "tqdm", "threadpoolctl"),
        # The command line comes with its command only.
        *("seqcore.cli", "seqcore.character", "seqcore.training"),
    }
    code = (
        "import sys, numpy, array_api_compat.numpy, safetensors.numpy\n"
        "before = set(sys.modules)\n"
        "import seqcore\n"
        "print(*sys.modules, '|', *set(sys.modules) - before)"
    )
    answer = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        cwd=ROOT.parent,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert answer.returncode == 0, answer.stderr
    everything, _, added = answer.stdout.partition("|")
    assert not optional & set(everything.split())
    assert "argparse" not in added.split()
    assert "seqcore.arrays" in added.split()


# --- arrays are values ------------------------------------------------------------------

CONTAINERS = re.compile(r"(dict|list|Params|Shapes|(checks\.)?Sizes)\b")


def containers(tree: ast.AST) -> set[str]:
    """Return the names that are visibly dicts or lists somewhere in a module."""
    plain = (ast.Dict, ast.DictComp, ast.List, ast.ListComp)

    def is_plain(value: ast.AST | None) -> bool:
        if isinstance(value, ast.BinOp):  # [1] * n, {} | {}
            return is_plain(value.left)
        if isinstance(value, ast.Call):
            return ast.unparse(value.func) in ("dict", "list")
        return isinstance(value, plain)

    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.arg) and node.annotation:
            if CONTAINERS.match(ast.unparse(node.annotation)):
                found.add(node.arg)
        elif isinstance(node, ast.AnnAssign):
            if CONTAINERS.match(ast.unparse(node.annotation)):
                found.add(ast.unparse(node.target))
        elif isinstance(node, ast.Assign):
            for target in node.targets:
                both = [(target, node.value)]
                if isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple):
                    both = list(zip(target.elts, node.value.elts, strict=False))
                found |= {ast.unparse(left) for left, right in both if is_plain(right)}
    return found


def written(tree: ast.AST) -> Iterator[ast.Subscript]:
    """Yield each `x[i]` that something is assigned to, or deleted."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Store | ast.Del):
            yield node


def is_name_of_an_entry(key: ast.AST) -> bool:
    """Tell whether `x[key]` can only be an entry of a dict: key is a string."""
    return isinstance(key, ast.JoinedStr) or (
        isinstance(key, ast.Constant) and isinstance(key.value, str)
    )


def trespasses(tree: ast.AST) -> list[str]:
    known = containers(tree)
    return [
        f"line {node.lineno}: {ast.unparse(node)} = ..."
        for node in written(tree)
        if not is_name_of_an_entry(node.slice) and ast.unparse(node.value) not in known
    ]


def outs(tree: ast.AST) -> list[str]:
    """Return calls with `out=` to functions of a namespace, or to methods of anything."""
    return [
        f"line {node.lineno}: {ast.unparse(node)}"
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and any(keyword.arg == "out" for keyword in node.keywords)
    ]


@each_module
def test_no_array_is_written_into(name):
    # These rooms own the host arrays that they make; any other array may be one of JAX.
    if room(name) not in DOORS - {"arrays"}:
        assert trespasses(MODULES[name]) == []
        assert outs(MODULES[name]) == []


@pytest.mark.parametrize(
    ("code", "bites"),
    [
        ("x[0] = 1", True),
        ("x[t, ...] += y", True),
        ("x[:, 0], y = 1, 2", True),
        ("del x[0]", True),
        ("x = xp.zeros(3)\nx[0] = 1", True),
        ("def f(x: Array): x[0] = 1", True),
        ("xp.add(x, y, out=z)", True),
        ("x['W'] = 1", False),
        ("x[f'd{name}'] = 1", False),
        ("after, x = dict(params), dict(grads)\nx[name] = 1", False),
        ("x: dict[str, Array] = make()\nx[name] = 1", False),
        ("def f(x: Params): x[name] = 1", False),
        ("shape = [1] * 3\nshape[axis] = n", False),
        ("y = x[0]", False),
        ("z *= 0.5", False),
        ("run(out=path)", False),
    ],
)
def test_the_rule_against_writing_bites_where_it_should(code, bites):
    tree = ast.parse(code)
    assert bool(trespasses(tree) or outs(tree)) is bites


# --- what is said ---------------------------------------------------------------------


def sayings(tree: ast.AST) -> list[str]:
    """Return what writes to the streams of the process, or sets up logging for all of it."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and node.id in ("print", "pprint", "breakpoint"):
            found.append(f"line {node.lineno}: {node.id}")
        elif isinstance(node, ast.Attribute):
            name = ast.unparse(node)
            streams = re.fullmatch(r"sys\.(__)?std(in|out|err)(__)?", name)
            # logging.info and its like make a handler where there is none.
            logs = re.fullmatch(r"logging\.(?!getLogger$)\w+", name)
            if streams or logs or node.attr in ("addHandler", "setLevel", "basicConfig"):
                found.append(f"line {node.lineno}: {name}")
        elif isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names]
            modules = names if isinstance(node, ast.Import) else [node.module or ""]
            froms = names if isinstance(node, ast.ImportFrom) else []
            if "tqdm" in {name.partition(".")[0] for name in modules}:
                found.append(f"line {node.lineno}: tqdm")
            if set(modules) & {"sys", "logging"} and froms:
                found.append(f"line {node.lineno}: from {modules[0]}")
    return found


@each_module
def test_only_the_command_line_prints(name):
    if room(name) != "cli":
        assert sayings(MODULES[name]) == []


@pytest.mark.parametrize(
    ("code", "bites"),
    [
        ("print(1)", True),
        ("say = print", True),
        ("sys.stdout.write('a')", True),
        ("sys.__stderr__.flush()", True),
        ("from sys import stderr", True),
        ("from tqdm import tqdm", True),
        ("import tqdm.auto", True),
        ("logging.warning('a')", True),
        ("logging.basicConfig()", True),
        ("from logging import info", True),
        ("log.addHandler(logging.NullHandler())", True),
        ("_log = logging.getLogger(__name__)\n_log.info('a')", False),
        ("sys.modules['a']", False),
        ("'print(1)'", False),
    ],
)
def test_the_rule_against_printing_bites_where_it_should(code, bites):
    assert bool(sayings(ast.parse(code))) is bites


# --- documentation ----------------------------------------------------------------------


# A kernel imports its array library; test_arrays.py runs its examples with that one.
KERNELS = {name for name in MODULES if name.startswith("kernels.")}


@pytest.mark.parametrize("name", ["", *sorted(set(MODULES) - KERNELS)])
def test_examples_in_docstrings_run(name):
    # By name: run as a file, a module would shadow the standard library's random.
    module = importlib.import_module(f"seqcore.{name}".rstrip("."))
    failed, _ = doctest.testmod(module)
    assert failed == 0


@each_module
def test_a_module_says_what_it_is(name):
    assert ast.get_docstring(MODULES[name])


PUBLIC = {
    name: value for name in seqcore.__all__ if not inspect.ismodule(value := getattr(seqcore, name))
}
PUBLIC |= {
    f"functional.{name}": getattr(seqcore.functional, name) for name in seqcore.functional.__all__
}


def sections(doc: str) -> dict[str, str]:
    """Split a numpydoc docstring: its summary under "", the rest by heading."""
    parts = re.split(r"^([A-Z]\w+(?: \w+)*)\n-+$", doc, flags=re.MULTILINE)
    return {"": parts[0].strip(), **dict(zip(parts[1::2], parts[2::2], strict=True))}


def arguments(value: object) -> set[str]:
    # A protocol is not made; the fields of a named tuple stand in its docstring.
    if getattr(value, "_is_protocol", False) or hasattr(value, "_fields"):
        return set()
    return set(inspect.signature(value).parameters) - {"self"}


@pytest.mark.parametrize("name", PUBLIC)
def test_a_public_name_explains_itself(name):
    value = PUBLIC[name]
    doc = inspect.getdoc(value)
    assert doc, "no docstring"
    found = sections(doc)
    first = found[""].split("\n\n")[0]
    assert first.endswith("."), "the summary is a sentence"
    assert len(first.splitlines()) == 1, "the summary is one line"
    explained = found.get("Parameters", "") + found.get("Other Parameters", "")
    for argument in arguments(value):
        assert re.search(rf"^(.*, )?\**{argument}\b.*$", explained, re.MULTILINE), argument
    if not inspect.isclass(value):
        silent = inspect.signature(value).return_annotation == "None"
        assert silent or "Returns" in found or re.match(r"(Return|Limit)\b", first)


def test_public_names_are_sorted_and_there():
    assert len(seqcore.__all__) == len(set(seqcore.__all__))
    for name in seqcore.__all__:
        assert hasattr(seqcore, name)
    assert re.fullmatch(r"\d+\.\d+\.\d+([a-z]+\d+)?", seqcore.__version__)
