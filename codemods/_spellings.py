"""What can be said of tensors in several ways, said in one."""

from __future__ import annotations

import ast

from apply_opt.model.source import callee

WITHOUT_GRADIENTS = ("torch.no_grad()", "torch.inference_mode()")
METHODS = (
    "sum",
    "mean",
    "std",
    "clamp",
    "argmax",
    "log",
    "abs",
    "sqrt",
    "exp",
    "any",
    "all",
    "isnan",
    "isinf",
    "isfinite",
    "bincount",
)
"""Methods of a tensor that are functions of PyTorch's, too."""
DIMENSION = ("sum", "mean", "argmax", "stack", "any", "all")
"""Those whose second argument is the dimension."""
SWAPPED: dict[type[ast.cmpop], type[ast.cmpop]] = {ast.Gt: ast.Lt, ast.GtE: ast.LtE}
SQUARES = ("torch.square", "torch.pow")


def is_without_gradients(statement: ast.stmt) -> bool:
    """Whether that is ``with torch.no_grad():``, and nothing else."""
    return isinstance(statement, ast.With) and all(ast.unparse(item) in WITHOUT_GRADIENTS for item in statement.items)


class Spelling(ast.NodeTransformer):
    """One spelling for each meaning; what is not known stays as it is."""

    def visit_Attribute(self, node: ast.Attribute) -> ast.expr:
        self.generic_visit(node)
        return _method(node.value, "dim") if node.attr == "ndim" and isinstance(node.ctx, ast.Load) else node

    def visit_Subscript(self, node: ast.Subscript) -> ast.expr:
        self.generic_visit(node)
        is_length = (
            isinstance(node.value, ast.Attribute) and node.value.attr == "shape" and ast.unparse(node.slice) == "0"
        )
        return _called("len", node.value.value) if is_length else node  # type: ignore[attr-defined]

    def visit_Compare(self, node: ast.Compare) -> ast.Compare:
        self.generic_visit(node)
        if len(node.ops) == 1 and isinstance(node.left, ast.Constant) and type(node.ops[0]) in (ast.Eq, ast.NotEq):
            node.left, node.comparators = node.comparators[0], [node.left]
        elif len(node.ops) == 1 and type(node.ops[0]) in SWAPPED:
            node.left, node.comparators = node.comparators[0], [node.left]
            node.ops = [SWAPPED[type(node.ops[0])]()]
        return node

    def visit_Call(self, node: ast.Call) -> ast.expr:
        self.generic_visit(node)
        text, name = ast.unparse(node.func), callee(node)
        given = [ast.unparse(argument) for argument in node.args]
        if text == "isinstance" and given[1:] == ["torch.Tensor"]:
            return _called("torch.is_tensor", node.args[0])
        if text == "range" and len(given) == 2 and given[0] == "0":
            return _called("range", node.args[1])
        if (
            text == "len"
            and len(given) == 1
            and given[0].endswith(".shape")
            and isinstance(node.args[0], ast.Attribute)
        ):
            return _method(node.args[0].value, "dim")
        if text in ("sum", "all", "any", "max", "min") and len(given) == 1 and isinstance(node.args[0], ast.ListComp):
            node.args = [ast.GeneratorExp(node.args[0].elt, node.args[0].generators)]
            return node
        if isinstance(node.func, ast.Attribute) and not node.keywords:
            if name == "size" and len(given) <= 1:
                shape = ast.Attribute(node.func.value, "shape", ast.Load())
                return self.visit_Subscript(ast.Subscript(shape, node.args[0], ast.Load())) if given else shape
            if name == "detach" and not given:
                return node.func.value
        return _of_tensors(node, text)


def _of_tensors(node: ast.Call, text: str) -> ast.expr:
    """A call of PyTorch's or of a tensor's: as a function, with its options by name and in order."""
    name = callee(node)
    if text == "ptwt.wavedec":
        positional = {k.arg: k.value for k in node.keywords if k.arg in ("data", "wavelet")}
        node.args += [positional[key] for key in ("data", "wavelet")[len(node.args) :] if key in positional]
        node.keywords = [k for k in node.keywords if k.arg not in positional]
    is_method = isinstance(node.func, ast.Attribute) and ast.unparse(node.func.value) not in (
        "torch",
        "np",
        "self",
        "nn",
    )
    if is_method and name in (*METHODS, "pow", "square", "clamp_min", "clip"):
        node.args.insert(0, node.func.value)  # type: ignore[attr-defined]
        text = f"torch.{name}"
    if text == "torch.clip":
        text = "torch.clamp"
    if text == "torch.clamp_min" and len(node.args) == 2:
        text, node.keywords, node.args = "torch.clamp", [ast.keyword("min", node.args[1])], node.args[:1]
    is_square = text in SQUARES and [ast.unparse(a) for a in node.args[1:]] == ["2"] * (text == "torch.pow")
    if is_square and node.args and not node.keywords:
        return ast.BinOp(node.args[0], ast.Pow(), ast.Constant(2))
    if text.startswith("torch."):
        node.func = ast.parse(text, mode="eval").body
        _name_options(node, text.removeprefix("torch."))
    node.keywords.sort(key=lambda keyword: keyword.arg or "")
    return node


def _name_options(node: ast.Call, name: str) -> None:
    """``dim=`` and ``min=`` for what stands at their place; none that says what is usual."""
    for keyword in node.keywords:
        keyword.arg = "dim" if keyword.arg == "axis" else keyword.arg
    own = ("dim",) if name in DIMENSION else ("min", "max") if name == "clamp" else ()
    if len(node.args) <= 1 + len(own) and not any(isinstance(a, ast.Starred) for a in node.args):
        node.keywords += [ast.keyword(key, value) for key, value in zip(own, node.args[1:])]
        node.args = node.args[:1] if own else node.args
    if name == "stack":
        node.keywords = [k for k in node.keywords if (k.arg, ast.unparse(k.value)) != ("dim", "0")]


def _called(name: str, argument: ast.expr) -> ast.Call:
    return ast.Call(ast.parse(name, mode="eval").body, [argument], [])


def _method(value: ast.expr, name: str) -> ast.Call:
    return ast.Call(ast.Attribute(value, name, ast.Load()), [], [])
