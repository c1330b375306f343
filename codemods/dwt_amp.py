"""Decompose series in half precision before they are put into words: mixed precision, as it was proposed.

Autocast around the whole generator would make its bands bfloat16, of which NumPy knows nothing. So it is around the
decomposition only, and the bands come back in float32.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence

from apply_opt.errors import Ambiguous, Conflict
from apply_opt.model.codemod import OURS, THEIRS, TODO, Site
from apply_opt.model.parameters import Value
from apply_opt.model.source import Edit, Source

from ._dwt_batch_text import HELPER as BATCH
from ._helpers import check_imported, insert_above, is_used
from ._lines import called_by, respelled
from ._scopes import calls, class_named
from ._wavelet_decomposition import WRAPPER, decomposition

SITE = "decomposition"
TEXT = '''
def _in_half(decompose, data, *more, **options):
    """`decompose(data, …)`, with its convolutions in DTYPE; the bands come back in float32, which NumPy knows."""
    with torch.autocast(data.device.type, dtype=torch.DTYPE):
        return [band.float() for band in decompose(data, *more, **options)]
'''


def find(source: Source, parameters: Mapping[str, Value]) -> list[Site]:
    """The site ``decomposition``: the call of ``ptwt.wavedec``, or of our function in its place."""
    uses = calls(source, WRAPPER)
    if is_used(source, WRAPPER, uses, 1):
        return [Site(SITE, uses[0].lineno, OURS)]
    call = decomposition(source).call
    around = _autocast(source, call)
    if any("enabled=False" in text for text in around):
        raise Conflict(f"{source.name}:{call.lineno}: autocast is turned off there")
    if around:
        return [Site(SITE, call.lineno, THEIRS, around[0])]
    if class_named(source, BATCH):
        raise Conflict(
            f"{source.name}: {BATCH} decomposes whole batches in float32: prompts would depend on the batch's size"
        )
    if not call.args or isinstance(call.args[0], ast.Starred):
        raise Ambiguous(f"{source.name}:{call.lineno}: the series are not the first argument")
    check_imported(source, "torch")
    return [Site(SITE, call.lineno, TODO)]


def edit(source: Source, parameters: Mapping[str, Value], sites: Sequence[Site]) -> list[Edit]:
    """The decomposition handed to our function, which is above the class."""
    call = decomposition(source).call
    return [
        insert_above(source, call, TEXT.replace("DTYPE", str(parameters["dtype"]))),
        respelled(source, source.statement(call), {call: called_by(source, call, WRAPPER)}),
    ]


def _autocast(source: Source, call: ast.Call) -> list[str]:
    """What is said of autocast around ``call``: by a ``with``, or a decorator."""
    blocks = [n for n in source.ancestors(call) if isinstance(n, (ast.With, ast.AsyncWith))]
    said = [ast.unparse(item.context_expr) for block in blocks for item in block.items]
    function = source.function(call)
    said += [ast.unparse(d) for d in function.decorator_list] if function else []
    return [text for text in said if "autocast" in text]
