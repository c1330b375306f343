"""Keep what the wavelet generator says about a window, for when the same window comes again: in validation and test.

A key of mean, standard deviation, minimum and maximum, as it was published, is the same for a window and the same one
backwards. Here it is made of all bytes of the window, and of all settings of the generator.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping, Sequence

from apply_opt.errors import Ambiguous, Conflict, NoSite
from apply_opt.model.codemod import OURS, TODO, Site
from apply_opt.model.parameters import Value
from apply_opt.model.source import Edit, Source

from ._helpers import are_used, check_imported, insert_above, meant, refuse_compiled, refuse_taken
from ._lines import called_by, respelled
from ._sample_loop import KEEPS, WRITER
from ._scopes import calls
from .dwt_batch_prompts import HELPER as BATCH

HELPER, OTHERS, SITE = KEEPS, ("_all_that_counts", "_is_plain"), "sample"
NAMES = ("_KNOWN_FEATURES", "_KNOWN_FEATURES_LOCK", "_Lock", "_OrderedDict", "_WeakKeyDictionary")
TEXT = '''
from collections import OrderedDict as _OrderedDict
from threading import Lock as _Lock
from weakref import WeakKeyDictionary as _WeakKeyDictionary

_KNOWN_FEATURES, _KNOWN_FEATURES_LOCK = _WeakKeyDictionary(), _Lock()


def _known_features(generator, sample, entries=ENTRIES):
    """`generator(sample)`; a copy of what that was before, where a generator in eval mode gets the same numbers again.

    Of the last `entries` windows. An exception is not kept, nor what comes of a call that changes a setting of the generator.
    """
    import copy

    key = _all_that_counts(generator, sample)
    if key is None:
        return generator(sample)
    with _KNOWN_FEATURES_LOCK:
        kept = _KNOWN_FEATURES.setdefault(generator, {})
        features = kept.pop(key, None)
        if features is not None:
            kept[key] = features  # the last one used is the last one
    if features is not None:
        return copy.deepcopy(features)
    features = generator(sample)
    if type(features) is dict and features and _all_that_counts(generator, sample) == key:
        try:
            own = copy.deepcopy(features)
        except Exception:  # part of what autograd records
            return features
        with _KNOWN_FEATURES_LOCK:
            kept[key] = own
            while len(kept) > entries:
                del kept[next(iter(kept))]
    return features


def _all_that_counts(generator, sample):
    """The bytes of `sample` and the settings of `generator`; nothing, where there may be more to it.

    So it is in training mode, with hooks, parameters or another `forward`, under autocast, where gradients are asked for.
    """
    import hashlib

    settings = vars(generator) if isinstance(generator, torch.nn.Module) else {}
    if settings.get("training", True) or not _is_plain(settings) or type(sample) is not torch.Tensor:
        return None
    if torch.nn.modules.module._has_any_global_hook():
        return None
    if sample.requires_grad or not sample.is_floating_point() or sample.device.type not in ("cpu", "cuda"):
        return None
    with torch.no_grad():
        one = torch.ones(1, 1, device=sample.device)
        if (one @ one).dtype != one.dtype or one.dtype != torch.float32:  # autocast
            return None
        numbers = sample.contiguous().reshape(-1).view(torch.uint8).cpu().numpy()
    shape = tuple(sample.shape), sample.stride(), sample.dtype, sample.device
    state = torch.get_num_threads(), torch.is_inference_mode_enabled(), type(generator).forward
    return hashlib.sha256(numbers).digest(), shape, repr(settings), state


def _is_plain(value):
    """Whether that is text, a number, or made of nothing else: `repr` says all about it."""
    if type(value) in (dict, _OrderedDict):
        return all(_is_plain(key) and _is_plain(value[key]) for key in value)
    if type(value) in (list, tuple, set):
        return all(map(_is_plain, value))
    return type(value) in (str, int, float, bool, type(None))
'''


def find(source: Source, parameters: Mapping[str, Value]) -> list[Site]:
    """The site ``sample``: the call of the generator."""
    uses = calls(source, HELPER)
    if are_used(source, HELPER, OTHERS, uses):
        return [Site(SITE, uses[0].lineno, OURS)]
    refuse_taken(source, *NAMES)
    return [Site(SITE, _asked(source).lineno, TODO)]


def edit(source: Source, parameters: Mapping[str, Value], sites: Sequence[Site]) -> list[Edit]:
    """Our function above the class, asked in the place of the generator."""
    call = _asked(source)
    return [
        insert_above(source, call, TEXT.replace("ENTRIES", str(parameters["entries"]))),
        respelled(source, source.statement(call), {call: called_by(source, call, HELPER)}),
    ]


def _asked(source: Source) -> ast.Call:
    """The call of the generator that writes the prompts, in the function in which it does."""
    if calls(source, BATCH):
        raise Conflict(f"{source.name}:{calls(source, BATCH)[0].lineno}: the generator is asked about the whole batch")
    found = []
    for writing in calls(source, WRITER):
        function, writer = source.function(writing), writing.func
        if function and isinstance(writer, ast.Attribute) and re.fullmatch(r"self\.\w+", ast.unparse(writer.value)):
            nodes = [n for n in ast.walk(function) if isinstance(n, ast.Call)]
            found += [n for n in nodes if ast.unparse(n.func) == ast.unparse(writer.value) and n not in found]
    if not found:
        raise NoSite(f"{source.name}: nobody asks a generator about a sample, to write a prompt ({WRITER})")
    if len(found) > 1:
        raise Ambiguous(
            f"{source.name}: a generator is asked in {len(found)} places: lines {', '.join(str(c.lineno) for c in found)}"
        )
    _check(source, found[0])
    return found[0]


def _check(source: Source, call: ast.Call) -> None:
    """Raise where more is handed to the generator than a sample, or the function may be compiled."""
    line, function = f"{source.name}:{call.lineno}", source.function(call)
    if len(call.args) != 1 or call.keywords or isinstance(call.args[0], ast.Starred):
        raise Ambiguous(f"{line}: the generator is not given a sample, and nothing else")
    if function:
        refuse_compiled(source, function)
    check_imported(source, "torch")
    if any(meant(source, compiling.func) != "re.compile" for compiling in calls(source, "compile")):
        raise Conflict(f"{line}: a model is compiled")
