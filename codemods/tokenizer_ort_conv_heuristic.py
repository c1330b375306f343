"""Let cuDNN choose convolution algorithms by its heuristic in the speech tokenizer's ONNX Runtime session.

The CUDA provider's option ``cudnn_conv_algo_search`` is EXHAUSTIVE by default
(https://onnxruntime.ai/docs/execution-providers/CUDA-ExecutionProvider.html#cudnn_conv_algo_search). Before ONNX Runtime 1.20
every algorithm is then timed when an input of a new shape comes, and utterances have almost as many lengths as there are of
them; HEURISTIC asks cuDNN and times nothing. From 1.20 on the two are modes of cuDNN's own heuristics
(https://github.com/microsoft/onnxruntime/issues/22705).
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping, Sequence

from apply_opt.errors import Ambiguous, Conflict, NoSite, PartlyApplied
from apply_opt.model.codemod import OURS, TODO, Site
from apply_opt.model.fragment import replace
from apply_opt.model.parameters import Value
from apply_opt.model.source import Edit, Source, callee, first_line

from ._lines import starts_line, text_of
from ._onnx_provider_lists import CUDA, OUR_HELPERS, Named, Providers, check_own, speech_tokenizer_providers
from ._scopes import argument, bindings, mentions, position

KEY, VALUE = "cudnn_conv_algo_search", "HEURISTIC"
COMMENT = (
    "# EXHAUSTIVE, the default, times all convolution algorithms again for each new length (ONNX Runtime before 1.20)."
)
SIMPLE = (ast.Assign, ast.AnnAssign, ast.AugAssign, ast.Expr, ast.Return)


def find(source: Source, parameters: Mapping[str, Value]) -> list[Site]:
    """The site ``cuda_provider``: where the session is given the CUDA provider."""
    found = speech_tokenizer_providers(source)
    named = _named(source, found)
    done = [one for one in named if _is_set(source, one)]
    if done and len(done) < len(named):
        lines = [", ".join(str(o.element.lineno) for o in named if (o in done) is there) for there in (True, False)]
        raise PartlyApplied(f"{source.name} is partly applied: {KEY} is set on line {lines[0]}, not on line {lines[1]}")
    _check_not_set_elsewhere(source, named)
    if done:
        return [Site("cuda_provider", done[0].element.lineno, OURS)]
    check_own(source, found)
    for providers in found:
        if argument(providers.creation.call, "provider_options", 3) is not None:
            line = providers.creation.call.lineno
            raise Conflict(
                f"{source.name}:{line}: the provider's options are handed over separately", "add it there by hand"
            )
    return [Site("cuda_provider", named[0].element.lineno, TODO)]


def edit(source: Source, parameters: Mapping[str, Value], sites: Sequence[Site]) -> list[Edit]:
    """The option beside the provider's name, or among the options that it has; a comment above the first."""
    named = _named(source, speech_tokenizer_providers(source))
    changes: dict[ast.stmt, dict[ast.expr, str]] = {}
    for one in named:
        node, code = _change(source, one)
        changes.setdefault(source.statement(node), {})[node] = code
    edits = [replace(source, statement, nodes) for statement, nodes in changes.items()]
    first = min(changes, key=position)
    if isinstance(first, SIMPLE) and starts_line(source, first):
        line = first_line(first)
        edits.insert(0, Edit(line, line - 1, source.indent(line) + COMMENT + source.newline(line)))
    return edits


def _named(source: Source, found: Sequence[Providers]) -> list[Named]:
    named = list(dict.fromkeys(one for providers in found for one in providers.of(CUDA)))
    if not named:
        where = found[0].creation.where(source)
        raise NoSite(f"{where}: no CUDA provider is named for the speech tokenizer's session")
    return sorted(named, key=lambda one: position(one.element))


def _options(source: Source, one: Named) -> ast.expr | None:
    """The options that the provider has: a dictionary that is written out, here or in a variable used for nothing else."""
    if not isinstance(one.element, ast.Tuple):
        return None
    options = one.element.elts[1]
    if isinstance(options, (ast.Name, ast.Attribute)):
        given = bindings(source, options, options)
        uses = [n for n in mentions(source, options) if isinstance(getattr(n, "ctx", None), ast.Load)]
        if len(given) == 1 and given[0].value is not None and uses == [options]:
            options = given[0].value
    if not isinstance(options, ast.Dict) or any(key is None for key in options.keys):
        raise Ambiguous(
            f"{source.name}:{one.element.lineno}: the CUDA provider's options are not written out: {ast.unparse(options)}",
            f'add "{KEY}": "{VALUE}" where they are made',
        )
    return options


def _is_set(source: Source, one: Named) -> bool:
    """Whether the option is there. Raises where it has another value."""
    for key, value in _items(_options(source, one)):
        if isinstance(key, ast.Constant) and key.value == KEY:
            if isinstance(value, ast.Constant) and value.value == VALUE:
                return True
            raise Conflict(
                f"{source.name}:{value.lineno} sets {KEY} on purpose: {ast.unparse(value)}",
                "take that out first, if you do not want it",
            )
    return False


def _items(options: ast.expr | None) -> Iterator[tuple[ast.expr | None, ast.expr]]:
    if isinstance(options, ast.Dict):
        yield from zip(options.keys, options.values)


def _check_not_set_elsewhere(source: Source, named: Sequence[Named]) -> None:
    """Raise where the file has the option's name in a place that is not followed."""
    known = [key for one in named for key, _ in _items(_options(source, one))]
    for node in (n for n in source.nodes(KEY) if not _is_repeated(source, n)):
        word = node.value if isinstance(node, ast.Constant) else getattr(node, "arg", None)
        if word == KEY and node not in known:
            line = getattr(node, "lineno", 0)
            raise Conflict(f"{source.name}:{line} has to do with {KEY} too: {ast.unparse(source.statement(node))}")


def _is_repeated(source: Source, node: ast.AST) -> bool:
    """Whether ``node`` is in what a function of ours is told about the session's providers."""
    return any(isinstance(n, ast.Call) and callee(n) in OUR_HELPERS for n in source.ancestors(node))


def _change(source: Source, one: Named) -> tuple[ast.expr, str]:
    """The expression to replace, and its new code."""
    options = _options(source, one)
    if options is None:
        return one.element, f'({text_of(source, one.element)}, {{"{KEY}": "{VALUE}"}})'
    text = text_of(source, options)
    rest = text[1:].lstrip(" \t")
    entry = f'"{KEY}": "{VALUE}"' + ("" if rest.lstrip() == "}" else ",")
    if rest[:1] in "\r\n":  # an entry a line
        newline = source.newline(options.lineno)
        return options, "{" + newline + source.indent(options.lineno + 1) + entry + rest
    return options, "{" + entry + (" " if entry.endswith(",") else "") + rest
