"""A decorator next to a method's ``def``, inside any other, so that it wraps the plain function."""

from __future__ import annotations

from apply_opt.model.fragment import rewrite
from apply_opt.model.source import Edit, Function, Source


def decorated(source: Source, method: Function, code: str, comment: str = "") -> Edit:
    """``method`` with ``@code`` above its ``def``, and a ``comment`` (with its ``#``) behind that."""
    import libcst as cst

    class Decorate(cst.CSTTransformer):
        depth = 0

        def visit_FunctionDef(self, node: cst.FunctionDef) -> None:
            self.depth += 1

        def leave_FunctionDef(self, original_node: cst.FunctionDef, updated_node: cst.FunctionDef) -> cst.FunctionDef:
            self.depth -= 1
            if self.depth:
                return updated_node
            behind = cst.TrailingWhitespace(cst.SimpleWhitespace("  "), cst.Comment(comment)) if comment else None
            ours = cst.Decorator(cst.parse_expression(code), leading_lines=updated_node.lines_after_decorators)
            ours = ours.with_changes(trailing_whitespace=behind) if behind else ours
            return updated_node.with_changes(decorators=[*updated_node.decorators, ours], lines_after_decorators=())

    return rewrite(source, method, Decorate())
