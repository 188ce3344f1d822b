"""What is put into a chat template before Jinja compiles it to Python, so that its work is charged as it renders.

A charge stands at the start of each list of statements (the body of a loop, a branch, a macro), for all the nodes in it that are
not in a list of their own; and around the operands whose size says what an operation costs.
"""

from __future__ import annotations

from typing import Any

from jinja2 import TemplateSyntaxError, nodes
from jinja2.compiler import CodeGenerator, Frame
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.visitor import NodeTransformer

from .template_meter import CALL, NODE

_KNOWN = {
    nodes.Add, nodes.And, nodes.Assign, nodes.AssignBlock, nodes.Break, nodes.Call, nodes.CallBlock, nodes.Compare, nodes.Concat,
    nodes.CondExpr, nodes.Const, nodes.Continue, nodes.Dict, nodes.Div, nodes.Filter, nodes.FilterBlock, nodes.FloorDiv,
    nodes.For, nodes.Getattr, nodes.Getitem, nodes.If, nodes.Keyword, nodes.List, nodes.Macro, nodes.Mod, nodes.Mul, nodes.NSRef,
    nodes.Name, nodes.Neg, nodes.Not, nodes.Operand, nodes.Or, nodes.Output, nodes.Pair, nodes.Pos, nodes.Pow, nodes.Slice,
    nodes.Sub, nodes.Template, nodes.TemplateData, nodes.Test, nodes.Tuple, nodes.With,
}  # fmt: skip
"""What a chat template is made of: no other files, no blocks to override, no escaping."""


class Charges(NodeTransformer):
    """Puts the charges into a syntax tree."""

    _steps = 0

    def visit(self, node: nodes.Node, *args: Any, **options: Any) -> Any:
        self._steps += NODE + (len(node.data) if isinstance(node, nodes.TemplateData) else 0)
        if type(node) not in _KNOWN:
            raise TemplateSyntaxError(f"chat templates have no {type(node).__name__}", node.lineno)
        return super().visit(node, *args, **options)

    def generic_visit(self, node: nodes.Node, *args: Any, **options: Any) -> nodes.Node:
        own = {field: value for field in ("body", "else_") if isinstance(value := getattr(node, field, None), list)}
        for field in own:
            setattr(node, field, [])
        super().generic_visit(node, *args, **options)
        for field in ("dyn_args", "dyn_kwargs"):
            if getattr(node, field, None) is not None:
                setattr(node, field, _call("spread", getattr(node, field)))
        for field, statements in own.items():
            if statements or field == "body":
                setattr(node, field, self._block(statements, node.lineno))
        return node

    def visit_For(self, node: nodes.For) -> nodes.Node:  # noqa: N802  Jinja's name
        test, node.test = node.test, None
        self.generic_visit(node)
        if test is not None:  # it is computed for each element
            steps, (visited,) = self._apart([test])
            node.test = nodes.And(_call("charge", nodes.Const(steps)), visited, lineno=node.lineno)
        return node

    def visit_Compare(self, node: nodes.Compare) -> nodes.Node:  # noqa: N802  Jinja's name
        self.generic_visit(node)
        operations = {operand.op for operand in node.ops}
        search = bool(operations & {"in", "notin"})
        if search or not any(isinstance(side, nodes.Const) for side in (node.expr, *(operand.expr for operand in node.ops))):
            node.expr = _read(node.expr)
            for operand in node.ops:
                operand.expr = _read(operand.expr, "searched" if operand.op in ("in", "notin") else "read")
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:  # noqa: N802  Jinja's name
        self.generic_visit(node)
        node.nodes = [_read(each) for each in node.nodes]
        return node

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Node:  # noqa: N802  Jinja's name
        self.generic_visit(node)
        if isinstance(node.arg, nodes.Slice):
            return _call("copied", node)
        if not isinstance(node.arg, nodes.Const):
            node.arg = _call("key", node.arg)
        return node

    def visit_Pair(self, node: nodes.Pair) -> nodes.Node:  # noqa: N802  Jinja's name
        self.generic_visit(node)
        node.key = _call("key", node.key)
        return node

    def _block(self, statements: list[nodes.Node], lineno: int) -> list[nodes.Node]:
        steps, visited = self._apart(statements)
        return [nodes.ExprStmt(_call("charge", nodes.Const(steps)), lineno=lineno), *visited]

    def _apart(self, inner: list[Any]) -> tuple[int, list[Any]]:
        """Visit nodes whose steps are not their surroundings'; returns the steps and what became of the nodes."""
        outer, self._steps = self._steps, CALL
        visited = [self.visit(node) for node in inner]
        steps, self._steps = self._steps, outer
        return steps, visited


class ChargingGenerator(CodeGenerator):
    """Writes the charges as plain calls, which no sandbox has to look at."""

    def visit_Call(self, node: nodes.Call, frame: Frame, forward_caller: bool = False) -> None:  # noqa: N802
        if isinstance(node.node, nodes.EnvironmentAttribute):
            self.write(f"environment.{node.node.name}(")
            self.visit(node.args[0], frame)
            self.write(")")
        else:
            super().visit_Call(node, frame, forward_caller=forward_caller)


class Marked(Extension):
    """``{% generation %} … {% endgeneration %}`` marks what the assistant said, for training; here only the text counts."""

    tags = {"generation"}  # noqa: RUF012  Jinja's own form

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _call(name: str, argument: nodes.Node) -> nodes.Call:
    return nodes.Call(nodes.EnvironmentAttribute(name), [argument], [], None, None, lineno=argument.lineno)


def _read(node: Any, name: str = "read") -> nodes.Expr:
    """The operand, charged, unless it is in the source as it is."""
    constant = isinstance(node, nodes.Const | nodes.TemplateData) or (
        isinstance(node, nodes.List | nodes.Tuple) and all(isinstance(item, nodes.Const) for item in node.items)
    )
    return node if constant else _call(name, node)
