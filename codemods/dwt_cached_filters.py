"""Make the filters of the wavelet generator's decomposition once, not in each call.

``ptwt.wavedec`` looks a wavelet up by its name in each call, once more for each level, and makes four tensors of its filters, each of
them copied to the device. It takes these tensors in place of the name. They are kept by name, dtype and device.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence

from apply_opt.model.codemod import OURS, THEIRS, TODO, Site
from apply_opt.model.parameters import Value
from apply_opt.model.source import Edit, Source

from ._helpers import are_used, check_imported, insert_above, refuse_taken
from ._lines import respelled, text_of
from ._scopes import argument, named
from ._wavelet_decomposition import KEPT, KEPT_TEXT, check_global, decomposition

SITE, OTHERS = "decomposition", ("_filters",)
STORE = "_KEPT_FILTERS"


def find(source: Source, parameters: Mapping[str, Value]) -> list[Site]:
    """The site ``decomposition``: the call of ``ptwt.wavedec``."""
    uses = [n for n in named(source, KEPT) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Load)]
    if are_used(source, KEPT, OTHERS, uses):
        return [Site(SITE, decomposition(source).call.lineno, OURS)]
    found = decomposition(source)
    wavelet = argument(found.call, "wavelet", 1 + (found.call.func is not found.function))
    if isinstance(wavelet, ast.Tuple):
        return [Site(SITE, found.call.lineno, THEIRS, "it is given filters")]
    refuse_taken(source, STORE)
    check_imported(source, "torch")
    check_global(source, found.function)
    return [Site(SITE, found.call.lineno, TODO)]


def edit(source: Source, parameters: Mapping[str, Value], sites: Sequence[Site]) -> list[Edit]:
    """Our function in the place of ``ptwt.wavedec``, and above the class what it is."""
    function = decomposition(source).function
    return [
        insert_above(source, function, KEPT_TEXT.replace("WAVEDEC", text_of(source, function))),
        respelled(source, source.statement(function), {function: KEPT}),
    ]
