"""Do not ask activations for a stride: where there is none, ``hasattr`` of a module raises and catches an error inside PyTorch.

Which layers have a stride could also be looked up once and kept. That would be wrong for a model whose layers are replaced or
that was pickled before, and where code is exported, which sees other objects at each look. The type of a layer says enough.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence

from apply_opt.errors import Ambiguous, NoSite
from apply_opt.model.codemod import OURS, TODO, Site
from apply_opt.model.parameters import Value
from apply_opt.model.source import Edit, Source

from ._helpers import check_imported, has_helper, insert_above
from ._lines import respelled, text_of
from ._masked_conv import Masked, masked_convolutions
from ._scopes import calls

HELPER, SITE = "_can_have_stride", "layers"
HELPER_TEXT = '''
def _can_have_stride(layer):
    """Whether to ask `layer` for a stride: where there is none, that raises and catches an error inside PyTorch."""
    return type(layer) not in (nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.GELU, nn.SiLU, nn.Hardswish, nn.Tanh)
'''


def find(source: Source, parameters: Mapping[str, Value]) -> list[Site]:
    """The site ``layers``: the question whether a layer has a stride, in the loop through the layers."""
    uses = calls(source, HELPER)
    if has_helper(source, HELPER, uses, 1):
        return [Site(SITE, uses[0].lineno, OURS)]
    question = _question(source, masked_convolutions(source))
    check_imported(source, "nn")
    return [Site(SITE, question.lineno, TODO)]


def edit(source: Source, parameters: Mapping[str, Value], sites: Sequence[Site]) -> list[Edit]:
    """The helper above the class, asked first."""
    found = masked_convolutions(source)
    test = _question(source, found)
    text = text_of(source, test)
    asked = respelled(source, source.statement(test), {test: f"{HELPER}({found.layer}) and {text}"})
    return [insert_above(source, found.cls, HELPER_TEXT), asked]


def _question(source: Source, found: Masked) -> ast.expr:
    """``hasattr(layer, "stride") and layer.stride != (1, 1)``, or the same by ``getattr``."""
    tests = [n.test for n in ast.walk(found.loop) if isinstance(n, ast.If) and "stride" in ast.unparse(n.test)]
    if len(tests) != 1:
        raise NoSite(f"{source.name}:{found.loop.lineno}: the loop does not ask once whether a layer has a stride")
    (test,) = tests
    forms = (
        f"hasattr({found.layer}, 'stride') and {found.layer}.stride != (1, 1)",
        f"getattr({found.layer}, 'stride', (1, 1)) != (1, 1)",
    )
    if ast.unparse(test) not in forms:
        raise Ambiguous(
            f"{source.name}:{test.lineno}: more is asked than whether a layer has a stride: {ast.unparse(test)}"
        )
    return test
