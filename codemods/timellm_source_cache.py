"""Compute the mixtures of words once for all batches of an evaluation, not in each forward pass.

Time-LLM reprograms patches as mixtures of the language model's words (M. Jin et al., https://arxiv.org/abs/2310.01728, section 3.1): a
linear layer over the whole vocabulary, of 50257 words for GPT-2. It reads weights and nothing of the input, so that its result is the
same until a weight changes.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from typing import Optional

from apply_opt.errors import Ambiguous, Conflict, NoSite, PartlyApplied
from apply_opt.model.codemod import OURS, TODO, Site
from apply_opt.model.parameters import Value
from apply_opt.model.source import Edit, Function, Source

from ._escapes import PREPARES
from ._helpers import check_imported, insert_above, is_rebound, is_used, meant, refuse_compiled, refuse_taken
from ._lines import above, all_respelled, ends_line, starts_line, text_of
from ._scopes import (
    FUNCTIONS,
    PARAMETER,
    bindings,
    calls,
    class_named,
    class_of,
    family,
    methods,
    named,
    parameters_of,
    reaching,
    scope_of,
)
from ._tokenizing import below

HELPER, STATE, DROP, KEPT = "_kept_words", "_state_of_words", "_drop_kept_words", "_KEPT_WORDS"
SITES = ("words", "train")
HELPER_TEXT = f'''
import weakref

from torch.multiprocessing.reductions import StorageWeakRef

{KEPT} = weakref.WeakKeyDictionary()


def {STATE}(layer, words):
    """What `layer(words)` depends on, to be compared. `None` where that may be more: hooks, other kinds of layers, tracing."""
    if type(layer) is not torch.nn.Linear or "forward" in vars(layer) or torch.nn.modules.module._has_any_global_hook():
        return None
    if layer._forward_hooks or layer._forward_pre_hooks or layer._backward_hooks or layer._backward_pre_hooks:
        return None
    weights = [layer.weight] if layer.bias is None else [layer.weight, layer.bias]
    if any(type(weight) is not torch.nn.Parameter for weight in weights) or not isinstance(words, torch.Tensor):
        return None
    tensors = [*weights, words]
    if type(words) not in (torch.Tensor, torch.nn.Parameter) or any(t.is_inference() or t.is_meta for t in tensors):
        return None
    if torch.jit.is_tracing() or torch._C._are_functorch_transforms_active():
        return None
    kind = words.device.type
    if hasattr(torch, "get_autocast_dtype"):  # since PyTorch 2.4
        autocast = torch.is_autocast_enabled(kind) and torch.get_autocast_dtype(kind)
    elif kind == "cpu":
        autocast = torch.is_autocast_cpu_enabled() and torch.get_autocast_cpu_dtype()
    else:
        autocast = torch.is_autocast_enabled() and torch.get_autocast_gpu_dtype()
    storages = [StorageWeakRef(t.untyped_storage()) for t in tensors]  # memory that is used again is another storage
    places = [(t.data_ptr(), t._version, t.dtype, t.device, t.shape, t.stride()) for t in tensors]
    return autocast, [id(weight) for weight in weights], storages, places


def {HELPER}(layer, words):
    """`layer(words)`, which does not depend on the input: in evaluation, without gradients, it is computed once and kept.

    It is computed anew where a weight is another one, lies elsewhere or has been written to, and under another autocast. PyTorch does
    not count what is written through `.data` or by a fused optimizer: that is why `train()`, `eval()` and each pass with gradients
    drop what is kept. Each caller gets a copy, so that nobody writes to what is kept; a model that is copied or saved has none of it.
    """
    if torch.compiler.is_compiling():
        return layer(words)
    state = None if torch.is_grad_enabled() or layer.training else {STATE}(layer, words)
    if state is None:
        {KEPT}.pop(layer, None)
        return layer(words)
    known, kept = {KEPT}.get(layer, (None, None))
    if known == state:
        return kept.clone()
    made = layer(words)
    {KEPT}[layer] = state, made.clone()
    return made


def {DROP}(model):
    """Drop what is kept for the layers of `model`."""
    for layer in model.modules():
        {KEPT}.pop(layer, None)
'''
METHOD_TEXT = f'''
def train(self, mode=True):
    """As ever, also for `eval()`; what is kept of this model's words ({HELPER}) is dropped."""
    {DROP}(self)
    return super().train(mode)
'''
VIEWS = {"permute", "transpose", "t", "swapaxes", "swapdims", "detach"}
TURNED = {"T", "mT", "data"}
MOVES = {"to", "float", "half", "bfloat16", "double", "cuda", "cpu", "clone", "detach", "requires_grad_"}
IMPORTED = ("weakref", "StorageWeakRef")
MODULES = ("Module", "LightningModule", "PreTrainedModel")


def find(source: Source, parameters: Mapping[str, Value]) -> list[Site]:
    """The sites ``words``, where a linear layer is given all words, and ``train``, a method that drops what is kept."""
    uses = calls(source, HELPER)
    ours = [n for n in source.nodes(DROP) if isinstance(n, FUNCTIONS) and n.name == "train" and _drops(n)]
    if is_used(source, HELPER, uses):
        if not ours:
            raise PartlyApplied(
                f"{source.name}:{uses[0].lineno} is partly applied: no method train drops what is kept",
                "take the part that is there out by hand, then apply again",
            )
        return [Site(name, node.lineno, OURS) for name, node in zip(SITES, (uses[0], ours[0]))]
    refuse_taken(source, STATE, DROP, KEPT, *(name for name in IMPORTED if is_rebound(source, name)))
    found = _calls(source)
    method = _own_train(source, found[0]) or _last(source, found)
    return [Site(SITES[0], found[0].lineno, TODO), Site(SITES[1], method.lineno, TODO)]


def edit(source: Source, parameters: Mapping[str, Value], sites: Sequence[Site]) -> list[Edit]:
    """The helper above the class, called in the place of each layer; and what drops it: ahead of all that the class's own ``train``
    does, or as a new ``train`` below the method with the layers.
    """
    found = _calls(source)
    changes: dict[ast.expr, str] = {}
    for call in found:
        changes[call] = f"{HELPER}({text_of(source, call.func)}, {text_of(source, call.args[0])})"
    method, own = _last(source, found), _own_train(source, found[0])
    return [
        insert_above(source, method, HELPER_TEXT),
        *all_respelled(source, changes),
        above(source, _body(own)[0], f"{DROP}(self)") if own else below(source, method, METHOD_TEXT),
    ]


def _drops(method: Function) -> bool:
    return any(isinstance(n, ast.Name) and n.id == DROP for n in ast.walk(method))


def _calls(source: Source) -> list[ast.Call]:
    """Every call of a linear layer on all words. Raises where there is none, and where one may be something else."""
    linear = [
        n for n in source.nodes("Linear") if isinstance(n, ast.Call) and _is_own(n.func) and _is_linear(source, n)
    ]
    found = [call for call in linear if _words(source, call) is not None]
    if not found:
        raise NoSite(
            f"{source.name}: no linear layer of self is given all words (self.word_embeddings, turned) in a method"
        )
    for call in found:
        _check(source, call)
    classes = {class_of(source, call) for call in found}
    if len(classes) > 1:
        lines = ", ".join(str(call.lineno) for call in found)
        raise Ambiguous(f"{source.name}: words are mapped in {len(classes)} classes: lines {lines}")
    refuse_compiled(source)
    check_imported(source, "torch")
    return found


def _is_own(node: ast.expr) -> bool:
    return isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "self"


def _is_linear(source: Source, call: ast.Call) -> bool:
    """Whether a layer is called, in a method, that is only ever ``nn.Linear(…)``, wherever it is moved to."""
    values = [b.value for b in bindings(source, call.func, call) if not b.is_empty()]
    layers = [_moved(value) for value in values if value is not None]
    is_linear = [isinstance(v, ast.Call) and meant(source, v.func) == "torch.nn.Linear" for v in layers]
    is_plain = len(call.args) == 1 and not call.keywords and not isinstance(call.args[0], ast.Starred)
    return bool(values) and len(layers) == len(values) and all(is_linear) and is_plain


def _moved(node: ast.expr) -> ast.expr:
    """What is moved to another device or type there."""
    while isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in MOVES:
        node = node.func.value
    return node


def _turned(node: ast.expr) -> ast.expr:
    """The tensor of which ``node`` is another view, with the same numbers in memory."""
    while True:
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in VIEWS:
            node = node.func.value
        elif isinstance(node, ast.Attribute) and node.attr in TURNED:
            node = node.value
        else:
            return node


def _words(source: Source, call: ast.Call) -> Optional[ast.Attribute]:
    """The attribute of ``self`` that ``call`` gives to its layer, turned; also by way of a variable."""
    node = _turned(call.args[0])
    if isinstance(node, ast.Name):
        given = reaching(source, node, call)
        value = given[0].value if len(given) == 1 and given[0].kind != PARAMETER else None
        node = node if value is None else _turned(value)
    is_weight = isinstance(node, ast.Attribute) and _is_own(node) and _is_weight(source, node)
    return node if is_weight else None  # type: ignore[return-value]


def _is_weight(source: Source, words: ast.Attribute) -> bool:
    """Whether an attribute is some layer's ``weight``, or a parameter of its own."""
    values = [
        _moved(b.value) if b.value is not None else None for b in bindings(source, words, words) if not b.is_empty()
    ]
    values = [_turned(value) if value is not None else None for value in values]
    return bool(values) and all(
        (isinstance(v, ast.Attribute) and v.attr == "weight")
        or (isinstance(v, ast.Call) and meant(source, v.func) == "torch.nn.Parameter")
        for v in values
    )


def _check(source: Source, call: ast.Call) -> None:
    """Raise where words may be others in each pass, or where ``train`` cannot be added."""
    where, cls, words = f"{source.name}:{call.lineno}", class_of(source, call), _words(source, call)
    assert words is not None
    if cls is None or source.function(call) is None:
        raise Ambiguous(f"{where}: the words are mapped in no method")
    for attribute in (call.func, words):
        for binding in bindings(source, attribute, call):
            function = source.function(binding.statement)
            if function is None or not PREPARES.fullmatch(function.name):
                line = binding.statement.lineno
                raise Ambiguous(f"{source.name}:{line}: {ast.unparse(attribute)} gets its value where it may change")
    _check_class(source, cls)
    method, own = _last(source, [call]), _own_train(source, call)
    is_alone = starts_line(source, method) and ends_line(source, method)
    if not (starts_line(source, _body(own)[0]) if own else is_alone):
        raise Ambiguous(f"{where}: {(own or method).name} shares its line with something else")


def _own_train(source: Source, call: ast.Call) -> Optional[Function]:
    """The method ``train`` of the class, which the model comes by, and ``eval()`` too."""
    cls = class_of(source, call)
    return next((method for method in methods(cls) if method.name == "train"), None) if cls else None


def _body(method: Function) -> Sequence[ast.stmt]:
    """Its statements, behind a docstring; that alone, where there is nothing else."""
    return method.body[1:] if ast.get_docstring(method, clean=False) is not None and method.body[1:] else method.body


def _is_plain_method(source: Source, cls: ast.ClassDef, method: Function) -> bool:
    """Whether lines can be put in ahead of all that a method does, in which the object is ``self``."""
    is_own = method in cls.body and [m.name for m in methods(cls)].count(method.name) == 1
    is_called_so = [parameter.arg for parameter in parameters_of(method)][:1] == ["self"]
    return is_own and is_called_so and not method.decorator_list and isinstance(method, ast.FunctionDef)


def _check_class(source: Source, cls: ast.ClassDef) -> None:
    """Raise where another ``train`` than the class's may run, or it may be no module."""
    classes = [n for n in source.nodes("class") if isinstance(n, ast.ClassDef) and cls in family(source, n)]
    bases = [meant(source, base) for member in family(source, cls) for base in member.bases]
    if not any(base.rpartition(".")[2] in MODULES for base in bases):
        raise Ambiguous(f"{source.name}:{cls.lineno}: whether {cls.name} is a torch.nn.Module cannot be told")
    for member in dict.fromkeys(member for one in classes for member in family(source, one)):
        for node in (n for s in member.body if not isinstance(s, FUNCTIONS) for n in ast.walk(s)):
            if isinstance(node, ast.Name) and node.id == "train" and not isinstance(node.ctx, ast.Load):
                raise Conflict(f"{source.name}:{node.lineno}: {member.name} has a method train of its own")
        for method in methods(member):
            if method.name == "train" and (member is not cls or not _is_plain_method(source, cls, method)):
                raise Conflict(f"{source.name}:{method.lineno}: {member.name} has a method train of its own")
        for base in () if "train" in [method.name for method in methods(member)] else member.bases:
            name = meant(source, base).rpartition(".")[2]
            if name in MODULES or class_named(source, name):
                break
            raise Ambiguous(f"{source.name}:{member.lineno}: {name} may have a method train of its own")
    for node in named(source, "train"):
        if isinstance(node, ast.Attribute) and not isinstance(node.ctx, ast.Load):
            raise Conflict(f"{source.name}:{node.lineno}: a method train is replaced there")


def _last(source: Source, found: Sequence[ast.Call]) -> Function:
    """The method of the class with the last of these calls."""
    cls = class_of(source, found[-1])
    around = [n for n in source.ancestors(found[-1]) if isinstance(n, FUNCTIONS) and scope_of(source, n) is cls]
    return around[-1]
