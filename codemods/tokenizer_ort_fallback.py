"""Name the CPU beside CUDA for the speech tokenizer's ONNX Runtime session, and say so where it runs there.

Where the CUDA provider cannot be loaded (its libraries are missing, or of another version), ONNX Runtime builds the session
without it and goes on: the tokens come, slowly, and nothing in the program says why. The CPU provider is always there; to
name it says that this is meant (https://onnxruntime.ai/docs/execution-providers/CUDA-ExecutionProvider.html).
"""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping, Sequence

from apply_opt.errors import Ambiguous, Conflict, NoSite
from apply_opt.model.codemod import OURS, THEIRS, TODO, Site
from apply_opt.model.parameters import Value
from apply_opt.model.source import Edit, Source, callee

from ._helpers import has_helper, insert_above
from ._lines import below, is_alone, line_of, respelled, text_of
from ._onnx_provider_lists import CPU, CUDA, LISTS, Providers, check_own, speech_tokenizer_providers
from ._scopes import calls, imported_as, targets_of
from ._step_audio_tokenizer import tokenizer_class

HELPER = "_warn_without_cuda"
HELPER_TEXT = '''
def _warn_without_cuda(session, providers):
    """Say so where the session was to run on CUDA (`providers`) and does not: ONNX Runtime goes on on the CPU."""
{imports}

    names = [provider if isinstance(provider, str) else provider[0] for provider in providers]
    if "CUDAExecutionProvider" not in names or "CUDAExecutionProvider" in session.get_providers():
        return
    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        why = "its libraries could not be loaded (ONNX Runtime's own message above names them)"
    else:
        why = "this installation of ONNX Runtime has no CUDA (it is in the package onnxruntime-gpu)"
    {warn}({message})
'''
MESSAGE = 'f"the speech tokenizer runs on the CPU, slowly, and not on CUDA: {why}"'
NO_FALLBACK = "disable_cpu_ep_fallback"
REPEATED = (*LISTS, ast.Dict, ast.Constant, ast.Name, ast.Attribute, ast.IfExp, ast.expr_context)


def find(source: Source, parameters: Mapping[str, Value]) -> list[Site]:
    """The site ``session``: where the session is built, and what it is given."""
    tokenizer = tokenizer_class(source)
    if has_helper(source, HELPER, calls(source, HELPER), tokenizer.lineno):
        return [Site("session", calls(source, HELPER)[0].lineno, OURS)]
    providers = _providers(source)
    line = providers.creation.call.lineno
    asked = calls(source, "get_providers")
    if asked:
        return [Site("session", asked[0].lineno, THEIRS, ast.unparse(source.statement(asked[0])).splitlines()[0])]
    _check(source, providers)
    return [Site("session", line, TODO)]


def edit(source: Source, parameters: Mapping[str, Value], sites: Sequence[Site]) -> list[Edit]:
    """The CPU provider behind CUDA's; the check below the session; the helper above the class."""
    providers = _providers(source)
    statement = source.statement(providers.creation.call)
    edits = [insert_above(source, statement, _helper(source, statement))]
    changes: dict[ast.stmt, dict[ast.expr, str]] = {}
    for node in _without_cpu(providers):
        changes.setdefault(source.statement(node), {})[node] = _with_cpu(source, node)
    edits += [respelled(source, where, nodes) for where, nodes in changes.items()]
    call = f"{HELPER}({ast.unparse(targets_of(statement)[0])}, {line_of(source, providers.expression)})"
    return [*edits, below(source, statement, call)]


def _providers(source: Source) -> Providers:
    found = speech_tokenizer_providers(source)
    if len(found) > 1:
        lines = ", ".join(str(p.creation.call.lineno) for p in found)
        raise Ambiguous(f"{source.name}: the speech tokenizer's session is built in several places: lines {lines}")
    return found[0]


def _check(source: Source, providers: Providers) -> None:
    """Raise where there is no CUDA provider to fall back from, or no place for the check."""
    where = providers.creation.where(source)
    if not providers.of(CUDA):
        raise NoSite(f"{where}: no CUDA provider is named for the speech tokenizer's session")
    for node in source.nodes(NO_FALLBACK):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and NO_FALLBACK in node.value:
            raise Conflict(f"{source.name}:{node.lineno} wants no fallback to the CPU: {node.value}")
    statement, call = source.statement(providers.creation.call), providers.creation.call
    kept = targets_of(statement)
    plain = (
        getattr(statement, "value", None) is call and len(kept) == 1 and isinstance(kept[0], (ast.Name, ast.Attribute))
    )
    if not plain or not is_alone(source, statement):
        raise NoSite(f"{source.name}:{call.lineno}: the session is not simply kept in a variable, on lines of its own")
    if providers.creation.via is None and not all(isinstance(n, REPEATED) for n in ast.walk(providers.expression)):
        text = ast.unparse(providers.expression)
        raise NoSite(f"{source.name}:{call.lineno}: the session's providers are computed in the call: {text}")
    check_own(source, [providers])


def _without_cpu(providers: Providers) -> list[ast.expr]:
    """The lists that name CUDA and, by themselves or by what is added to them, not the CPU."""
    with_cpu = [one.within for one in providers.of(CPU)]
    lists = dict.fromkeys(one.within for one in providers.of(CUDA) if one.within is not None)
    return [node for node in lists if node not in with_cpu and None not in with_cpu]


def _with_cpu(source: Source, node: ast.expr) -> str:
    """The text of a list with the CPU provider as its last element."""
    assert isinstance(node, LISTS)
    wanted = [ast.dump(element) for element in (*node.elts, ast.Constant(CPU))]
    text = _added(source, node, node.elts[-1])
    plain = ast.unparse(ast.List([*node.elts, ast.Constant(CPU)]))
    try:
        tree = ast.parse(f"({text}\n)", mode="eval").body
    except SyntaxError:
        return plain
    return text if [ast.dump(element) for element in getattr(tree, "elts", ())] == wanted else plain


def _added(source: Source, node: ast.expr, last: ast.expr) -> str:
    """The text with one more element: behind the ``last``, or on a line of its own below that."""
    text = text_of(source, node)
    closing = text[-1] if text.startswith(("[", "(")) and text.endswith(("]", ")")) else ""
    quote = "'" if text_of(source, last).lstrip("(").startswith("'") else '"'
    inner, element = text.removesuffix(closing), f"{quote}{CPU}{quote}"
    if last.end_lineno == node.end_lineno:
        return f"{inner.rstrip().removesuffix(',')}, {element}{closing}"
    tail = re.sub(r"^(\s*\))+", "", _behind(source, last, node).removesuffix(closing))
    head = inner.removesuffix(tail)
    tail = tail if tail.lstrip().startswith(",") else "," + tail
    newline, indent = source.newline(node.lineno), source.indent(node.end_lineno or node.lineno)
    return f"{head}{tail.rstrip()}{newline}{source.indent(last.lineno)}{element},{newline}{indent}{closing}"


def _behind(source: Source, last: ast.expr, node: ast.expr) -> str:
    """The text of ``node`` behind ``last``, its last element."""
    lines = [line.encode() for line in source.lines[(last.end_lineno or 1) - 1 : node.end_lineno]]
    lines[-1] = lines[-1][: node.end_col_offset]
    return b"".join([lines[0][last.end_col_offset or 0 :], *lines[1:]]).decode()


def _helper(source: Source, statement: ast.stmt) -> str:
    """Our function, which says it as this file says things: by its own logger, by ``warnings``, else by a logger made there."""
    place = source.top_level(statement)
    above = source.tree.body[: source.tree.body.index(place)]
    warn, imports = "logging.getLogger(__name__).warning", "    import logging\n\n    import onnxruntime"
    if any(isinstance(s, ast.Import) and any(a.name == "warnings" and not a.asname for a in s.names) for s in above):
        warn, imports = "warnings.warn", "    import onnxruntime"
    for made in (s for s in above if isinstance(s, ast.Assign) and isinstance(s.value, ast.Call)):
        names = [t.id for t in made.targets if isinstance(t, ast.Name)]
        if isinstance(made.value, ast.Call) and callee(made.value) in imported_as(source, "getLogger") and names:
            warn, imports = f"{names[0]}.warning", "    import onnxruntime"
    return HELPER_TEXT.replace("{imports}", imports).replace("{warn}", warn).replace("{message}", MESSAGE)
