"""No private name of a library is used, nor one of another module of ours.

A private name (`_x`) belongs to the class or the module that defines it. A class defines what it names in its body or
its `__slots__`, and what its `__init__` assigns to `self`. What other methods assign counts only where no library's
class is among its bases: there it may well be an attribute of that one.
"""

import ast
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
OURS = "slotproxy"
PUBLIC = frozenset({"_asdict", "_fields", "_make", "_replace", "_field_defaults", "_exit"})  # documented, for all that
HARMLESS = frozenset(
    {"ABC", "Enum", "Exception", "Generic", "NamedTuple", "Protocol", "StrEnum", "Struct", "dict"}
)  # bases
MAKERS = frozenset({"__init__", "__new__", "__post_init__"})
BY_STRING = frozenset({"getattr", "setattr", "hasattr", "delattr", "attrgetter"})
Function = ast.FunctionDef | ast.AsyncFunctionDef


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.endswith("__") and name not in PUBLIC and name.strip("_") != ""


@dataclass(kw_only=True)
class Names:
    """Private names of one class, or of the top level of one module."""

    bases: list[str] = field(default_factory=list)
    own: set[str] = field(default_factory=set)
    assigned: set[str] = field(default_factory=set)  # to self, by any method


@dataclass(kw_only=True)
class Sources:
    """Modules by the names of their files."""

    trees: dict[str, ast.Module]
    classes: dict[str, list[Names]] = field(default_factory=dict)  # by the class's name, which two may share
    by_module: dict[str, set[str]] = field(default_factory=dict)  # all of a module's private names

    def __post_init__(self) -> None:
        for name, tree in self.trees.items():
            top = set(_named_in(tree.body))
            for node in ast.walk(tree):
                if isinstance(node, ast.ClassDef):
                    known = Names(bases=[_last(base) for base in node.bases], own=set(_defined_by(node)))
                    known.assigned = set(_assigned_in(node))
                    self.classes.setdefault(node.name, []).append(known)
                    top |= known.own | known.assigned
            self.by_module[name] = top

    def has(self, owner: str, name: str) -> bool:
        """Whether a class of this name, or one of ours that it is derived from, defines `name`."""
        return any(
            name in known.own
            or (name in known.assigned and not self._is_derived_from_a_library(known))
            or any(self.has(base, name) for base in known.bases if base != owner)
            for known in self.classes.get(owner, [])
        )

    def _is_derived_from_a_library(self, known: Names) -> bool:
        return any(
            any(map(self._is_derived_from_a_library, self.classes[base])) if base in self.classes else True
            for base in known.bases
            if base not in HARMLESS
        )

    def faults(self) -> list[str]:
        return [f"{name}:{line}: {text}" for name in self.trees for line, text in sorted(_Walk(self, name).found())]


def _last(node: ast.expr) -> str:
    """`b` of `b`, `a.b`, `a.b[T]`."""
    if isinstance(node, ast.Subscript):
        return _last(node.value)
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""


def _named_in(body: list[ast.stmt]) -> Iterator[str]:
    for node in body:
        if isinstance(node, Function | ast.ClassDef):
            yield node.name
        for target in _targets(node):
            yield from (name.id for name in ast.walk(target) if isinstance(name, ast.Name))


def _targets(node: ast.stmt) -> list[ast.expr]:
    if isinstance(node, ast.Assign):
        return node.targets
    return [node.target] if isinstance(node, ast.AnnAssign) else []


def _defined_by(node: ast.ClassDef) -> Iterator[str]:
    yield from _named_in(node.body)
    for statement in node.body:
        if any(_last(target) == "__slots__" for target in _targets(statement)):
            yield from (str(one.value) for one in ast.walk(statement) if isinstance(one, ast.Constant))
        if isinstance(statement, Function) and statement.name in MAKERS:
            yield from _assigned_in(statement)


def _assigned_in(node: ast.AST) -> Iterator[str]:
    """The attributes of `self` and `cls`."""
    targets = (target for one in ast.walk(node) if isinstance(one, ast.stmt) for target in _targets(one))
    for target in targets:
        for one in ast.walk(target):
            if isinstance(one, ast.Attribute) and isinstance(one.value, ast.Name) and one.value.id in ("self", "cls"):
                yield one.attr


class _Walk(ast.NodeVisitor):
    """Uses of private names in one module."""

    def __init__(self, sources: Sources, module: str) -> None:
        self._sources, self._module = sources, module
        self._owners: list[str] = []  # the classes around the current place, the innermost last
        self._imported: set[str] = set()  # what names mean modules, or things of other modules
        self._found: list[tuple[int, str]] = []

    def found(self) -> list[tuple[int, str]]:
        self.visit(self._sources.trees[self._module])
        return self._found

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        self._owners.append(node.name)
        self.generic_visit(node)
        self._owners.pop()

    def visit_Attribute(self, node: ast.Attribute) -> None:
        if is_private(node.attr) and not self._may(node):
            self._found.append((node.lineno, ast.unparse(node)))
        self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> None:
        if _last(node.func) in BY_STRING:
            names = [one.value for one in node.args if isinstance(one, ast.Constant) and isinstance(one.value, str)]
            self._found += [(node.lineno, ast.unparse(node)) for name in names if is_private(name)]
        self.generic_visit(node)

    def visit_Import(self, node: ast.Import) -> None:
        self._imported |= {(one.asname or one.name).partition(".")[0] for one in node.names}
        self._check_import(node.lineno, [part for one in node.names for part in one.name.split(".")])

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        self._imported |= {one.asname or one.name for one in node.names}
        parts = [] if node.module == "__future__" else (node.module or "").split(".")
        self._check_import(node.lineno, [*parts, *(one.name for one in node.names)])

    def _check_import(self, line: int, parts: list[str]) -> None:
        self._found += [(line, f"import of {part}") for part in parts if is_private(part)]

    def _may(self, node: ast.Attribute) -> bool:
        holder = node.value
        if isinstance(holder, ast.Name) and holder.id in ("self", "cls") and self._owners:
            return any(self._sources.has(owner, node.attr) for owner in self._owners)
        if isinstance(holder, ast.Call) and _last(holder.func) == "super" and self._owners:
            return self._sources.has(self._owners[-1], node.attr)
        if isinstance(holder, ast.Name) and holder.id in self._imported:
            return False
        return node.attr in self._sources.by_module[self._module]


def sources_of(*packages: str) -> Sources:
    paths = [path for package in packages for path in sorted((ROOT / package).rglob("*.py"))]
    return Sources(trees={str(path.relative_to(ROOT)): ast.parse(path.read_text()) for path in paths})


@pytest.mark.parametrize("package", ["proxy", "instances"])
def test_only_public_names_of_libraries_and_of_other_modules_are_used(package: str) -> None:
    everything = sources_of("proxy", "instances")
    faults = [fault for fault in everything.faults() if fault.startswith(package)]
    assert not faults, "\n".join(faults)


@pytest.mark.parametrize(
    ("use", "faults"),
    [
        ("self._own", 0),
        ("self._slot", 0),
        ("self._inherited", 0),
        ("self._foreign", 1),
        ("self._assigned_elsewhere", 1),
        ("other._own", 0),
        ("other._others", 1),
        ("self._others", 1),
        ("other._foreign", 1),
        ("super()._foreign()", 1),
        ("getattr(other, '_own')", 1),
        ("_function()", 0),
        ("library._function()", 1),
        ("pair._replace(a=1)", 0),
        ("other.__dict__", 0),
    ],
)
def test_the_rule_itself(use: str, faults: int) -> None:
    mine = f"""
        import library

        def _function(): ...

        class Base:
            _inherited = 1

        class Mine(Base, library.Foreign):
            __slots__ = ("_slot",)

            def __init__(self):
                self._own: int = 0

            def elsewhere(self):
                self._assigned_elsewhere = 1

            def use(self, other, pair):
                {use}
        """
    trees = {"mine.py": ast.parse(textwrap.dedent(mine)), "other.py": ast.parse("class Other:\n    _others = 1\n")}
    line = mine.count("\n")
    found = [fault for fault in Sources(trees=trees).faults() if fault.startswith(f"mine.py:{line}: ")]
    assert len(found) == faults
