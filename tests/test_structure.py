"""The package stays in pieces that can be read: none too long, and no imports in a circle."""

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import mei_lightning as ml

PACKAGE = Path(ml.__file__).parent
MOST_LINES = {ast.ClassDef: 250, ast.FunctionDef: 60}
MOST_LINES_OF_MODULE = 410
LONGER = {
    # Layouts of figures, one statement after the other, which nothing else could use a part of.
    "plot_gallery": 112,
    "plot_meis": 73,
    # The steps of one analysis, in their order.
    "compare_with_standard_stimuli": 77,
    "chromatic_landscape": 67,
}
"""What may be longer, and how much."""


def modules():
    for path in PACKAGE.rglob("*.py"):
        name = ".".join(["mei_lightning", *path.relative_to(PACKAGE).with_suffix("").parts])
        yield name.removesuffix(".__init__"), path.read_text(encoding="utf-8")


def lines_of(node):
    """Lines without the docstring."""
    first = node.body[0]
    documented = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant)
    described = first.end_lineno - first.lineno + 1 if documented else 0
    return node.end_lineno - node.lineno + 1 - described


def test_nothing_is_too_long_to_be_read():
    for name, source in modules():
        assert source.count("\n") <= MOST_LINES_OF_MODULE, name
        for node in ast.walk(ast.parse(source)):
            if type(node) in MOST_LINES:
                most = LONGER.get(node.name, MOST_LINES[type(node)])
                assert lines_of(node) <= most, f"{name}.{node.name}: {lines_of(node)} lines"


def test_imports_go_one_way():
    sources = dict(modules())
    imports = {}
    for name, source in sources.items():
        imported = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.ImportFrom)]
        parts = [(node.module, f"{node.module}.{alias.name}") for node in imported for alias in node.names]
        imports[name] = {part if part in sources else module for module, part in parts if module in sources}
    assert len(list(TopologicalSorter(imports).static_order())) >= len(sources)
