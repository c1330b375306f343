"""Hand images over as they are stored: workers give uint8 with channels last, and a batch becomes floats where it is asked for.

ACT's data set makes float32 of the images of an item (T. Z. Zhao et al., https://arxiv.org/abs/2304.13705): four times the bytes, which
are written, put together with channels first and sent to the training's process. A DataLoader's workers send what the data set gives
(https://docs.pytorch.org/docs/stable/data.html#multi-process-data-loading); who iterates over it sees the batch afterwards only.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping, Sequence
from typing import Optional

from apply_opt.errors import Ambiguous, Conflict, NoSite, PartlyApplied
from apply_opt.model.codemod import OURS, TODO, Site
from apply_opt.model.parameters import Value
from apply_opt.model.source import Edit, Source, callee, same

from ._helpers import check_imported, check_imported_above, insert_above, meant, refuse_compiled, refuse_taken
from ._item_images import Images, check_items_unread, images_of_items
from ._lines import all_respelled, text_of
from ._loader_calls import LOADERS, arguments, uses
from ._scopes import argument, bindings, calls, named

SITES = ("images", "loader")
STORED, LOADER, BATCHES, SCALED = "_images_as_stored", "_Uint8ImageLoader", "_ScaledBatches", "_scaled_images"
NAMES = (STORED, LOADER, BATCHES, SCALED)
TEXT = '''
def _images_as_stored(images):
    """uint8 images (K, C, H, W) with channels last (K, H, W, C): `_Uint8ImageLoader` divides them by 255. Others are divided here."""
    stored = images.movedim(-3, -1) if images.ndim > 2 else images
    is_sent = torch.utils.data.get_worker_info() is not None
    is_plain = images.dtype == torch.uint8 and images.ndim > 2 and torch.get_default_dtype() == torch.float32
    if is_plain and (is_sent or stored.is_contiguous()):  # else a batch would be laid out otherwise than it was
        return stored
    return DIVISION


def _scaled_images(images, in_worker):
    """Images (B, K, H, W, C) from 0 to 255 as float32 (B, K, C, H, W) from 0 to 1, laid out as if items had had them so."""
    with torch.inference_mode(images.is_inference()):
        if not in_worker:
            scaled = torch.stack([image.movedim(-1, -3) / 255.0 for image in images])
            return scaled.pin_memory() if images.is_pinned() else scaled
        shape = images.movedim(-1, -3).shape
        if images.is_pinned():
            scaled = images.new_empty(shape, dtype=torch.float32, pin_memory=True)
        else:  # NumPy asks for large pages, which the system has ready in a third of the time
            scaled = torch.from_numpy(np.empty(shape, np.float32))
        for image, made in zip(images.flatten(0, -4), scaled.flatten(0, -4)):
            made.copy_(image.movedim(-1, -3)).div_(255.0)
        return scaled


class _ScaledBatches:
    """The batches of a loader's iterator, their images scaled."""

    def __init__(self, batches, in_worker):
        self.batches, self.in_worker = batches, in_worker

    def __iter__(self):
        return self

    def __len__(self):
        return len(self.batches)

    def __next__(self):
        batch = next(self.batches)
        if batch[PLACE].dtype == torch.uint8:
            batch[PLACE] = _scaled_images(batch[PLACE], self.in_worker)
        return batch


class _Uint8ImageLoader(BASE):
    """A DataLoader of items whose images are handed over as they are stored: uint8, channels last, a quarter of the bytes.

    Whoever iterates over it gets float32 images from 0 to 1, channels first, as if items had them. Where `images_as_uint8` is set,
    and there are workers, batches come as they were handed over, uint8 (B, K, H, W, C), for a GPU to scale.
    """

    images_as_uint8 = False

    def __iter__(self):
        batches, in_worker = super().__iter__(), self.num_workers > 0
        return batches if self.images_as_uint8 and in_worker else _ScaledBatches(batches, in_worker)
'''
ITERATES = {"len", "iter", "enumerate", "next", "zip", "tqdm", "list", "islice", "repeat", "print"}
SETS_DTYPE = ("set_default_dtype", "set_default_tensor_type")


def find(source: Source, parameters: Mapping[str, Value]) -> list[Site]:
    """The sites ``images``, the division in the data set's items, and ``loader``, the first loader of these."""
    used = [*calls(source, STORED), *calls(source, LOADER)]
    defined = [n for name in NAMES for n in named(source, name) if isinstance(n, (ast.FunctionDef, ast.ClassDef))]
    if used or defined:
        counts = [len(calls(source, STORED)), min(1, len(calls(source, LOADER))), len(defined)]
        if counts != [1, 1, len(NAMES)]:
            raise PartlyApplied(
                f"{source.name}:{[*used, *defined][0].lineno} is partly applied: of {', '.join(NAMES)} some are "
                "missing, there twice, or not used",
                "take the part that is there out by hand, then apply again",
            )
        return [Site(name, calls(source, made)[0].lineno, OURS) for name, made in zip(SITES, (STORED, LOADER))]
    images, loaders = _places(source)
    return [Site(SITES[0], images.division.lineno, TODO), Site(SITES[1], loaders[0].lineno, TODO)]


def edit(source: Source, parameters: Mapping[str, Value], sites: Sequence[Site]) -> list[Edit]:
    """The classes and functions above the first loader; loaders of that class; items without the division."""
    images, loaders = _places(source)
    text = TEXT.replace("DIVISION", "images.float() / 255.0" if images.is_float else "images / 255.0")
    text = text.replace("PLACE", str(images.place)).replace("BASE", text_of(source, loaders[0].func))
    changes = {images.division: f"{STORED}({text_of(source, images.divided)})"}
    changes |= {call.func: LOADER for call in loaders}
    return [insert_above(source, loaders[0], text), *all_respelled(source, changes)]


def _places(source: Source) -> tuple[Images, list[ast.Call]]:
    """The images of the items and the loaders of these. Raises where anything else may see such items."""
    images = images_of_items(source)
    check_items_unread(source, images)
    loaders = _loaders(source, images)
    refuse_taken(source, *NAMES)
    refuse_compiled(source, images.method)
    check_imported(source, "torch", "np")
    for node in source.nodes(*SETS_DTYPE):
        if isinstance(node, ast.Call) and callee(node) in SETS_DTYPE:
            raise Conflict(f"{source.name}:{node.lineno}: which floats a division makes is changed there")
    return images, loaders


def _loaders(source: Source, images: Images) -> list[ast.Call]:
    """The loaders of the data set, in order: all that is made of it."""
    name = images.cls.name
    found: list[ast.Call] = []
    for node in named(source, name):
        if not isinstance(node, ast.Name) or _is_own_name(source, node, images):
            continue
        made = source.ancestors(node)[0]
        if not (isinstance(made, ast.Call) and made.func is node):
            raise Ambiguous(f"{source.name}:{node.lineno}: {name} is used there, and not to make a data set")
        found += _loaders_of(source, made)
    if not found:
        raise NoSite(f"{source.name}: no DataLoader is made of {name}")
    found = sorted(dict.fromkeys(found), key=lambda call: call.lineno)
    for call in found:
        _check_loader(source, call)
    if all(_is_without_workers(source, call) for call in found):
        raise NoSite(
            f"{source.name}:{found[0].lineno}: the loader has no workers, from which images would have to be sent"
        )
    return found


def _is_own_name(source: Source, node: ast.Name, images: Images) -> bool:
    """Whether a class names itself, for ``super(Class, self)``."""
    parent = source.ancestors(node)[0]
    return images.cls in source.ancestors(node) and isinstance(parent, ast.Call) and callee(parent) == "super"


def _loaders_of(source: Source, made: ast.Call) -> Iterator[ast.Call]:
    """The loaders of a data set that is made there. Raises where something else is done with it."""
    loader, statement = _loader_of(source, made), source.statement(made)
    if loader:
        yield loader
        return
    target = statement.targets[0] if isinstance(statement, ast.Assign) and len(statement.targets) == 1 else None
    if not isinstance(target, ast.Name) or source.ancestors(made)[0] is not statement:
        raise Ambiguous(f"{source.name}:{made.lineno}: the data set goes to more than a variable")
    for use in uses(source, target):
        loader = _loader_of(source, use)
        if loader:
            _check_one_class(source, made, use)
            yield loader
        elif not _is_harmless(source, use):
            raise Ambiguous(f"{source.name}:{use.lineno}: {target.id} goes to more than a DataLoader")


def _loader_of(source: Source, data: ast.expr) -> Optional[ast.Call]:
    """The DataLoader whose data set ``data`` is, in any spelling of its arguments."""
    call = next((n for n in source.ancestors(data)[:2] if isinstance(n, ast.Call)), None)
    is_loader = call is not None and meant(source, call.func) in LOADERS and argument(call, "dataset", 0) is data
    return call if is_loader else None


def _is_harmless(source: Source, use: ast.expr) -> bool:
    """Whether no item is read: an attribute of the data set is, or its length."""
    user = source.ancestors(use)[0]
    if isinstance(user, ast.Attribute):
        return isinstance(user.ctx, ast.Load) and not user.attr.startswith("__")
    return isinstance(user, ast.Call) and callee(user) == "len"


def _check_one_class(source: Source, made: ast.Call, use: ast.Name) -> None:
    """Raise where the variable may hold another kind of data set."""
    for binding in bindings(source, use, use):
        if not (isinstance(binding.value, ast.Call) and same(binding.value.func, made.func)):
            raise Ambiguous(f"{source.name}:{binding.statement.lineno}: {use.id} may be another data set")


def _check_loader(source: Source, call: ast.Call) -> None:
    """Raise where what a loader makes of items is its own, or where it is handed on to what may make another of it."""
    where, given = f"{source.name}:{call.lineno}", arguments(source, call)
    collate = given.get("collate_fn")
    if collate is not None and not _is_none(collate):
        raise Conflict(f"{where}: the loader has a collate_fn of its own")
    if "batch_size" in given and "batch_sampler" not in given and _may_be_none(source, given["batch_size"]):
        raise Ambiguous(f"{where}: without a batch size ({ast.unparse(given['batch_size'])}) a loader makes no batches")
    check_imported_above(source, call)
    _check_kept(source, call)


def _is_none(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and node.value is None


def _may_be_none(source: Source, size: ast.expr) -> bool:
    values = [b.value for b in bindings(source, size, size)] if isinstance(size, ast.Name) else []
    return any(
        _is_none(n) for value in [size, *filter(None, values)] for n in ast.walk(value) if isinstance(n, ast.expr)
    )


def _is_without_workers(source: Source, call: ast.Call) -> bool:
    workers = arguments(source, call).get("num_workers")
    return workers is None or (isinstance(workers, ast.Constant) and workers.value == 0)


def _check_kept(source: Source, call: ast.Call) -> None:
    """Raise where a loader goes elsewhere than to who called: what wraps it may make a plain one of its data set."""
    statement, around = source.statement(call), source.ancestors(call)
    inner = around[: around.index(statement)]
    is_plain = all(isinstance(n, (ast.Tuple, ast.List, ast.Dict)) for n in inner)
    if is_plain and isinstance(statement, ast.Return):
        return
    targets = statement.targets if isinstance(statement, ast.Assign) else []
    if not is_plain or not targets or not all(isinstance(t, ast.Name) for t in targets):
        raise Ambiguous(f"{source.name}:{call.lineno}: the loader goes to more than a variable")
    for use in (use for target in targets if isinstance(target, ast.Name) for use in uses(source, target)):
        user = source.ancestors(use)[0]
        is_asked = isinstance(user, ast.Call) and use in user.args and callee(user) in ITERATES
        is_looped = isinstance(user, (ast.For, ast.comprehension)) and user.iter is use
        if not (is_asked or is_looped or isinstance(user, (ast.Return, ast.Tuple, ast.List, ast.Dict))):
            raise Ambiguous(f"{source.name}:{use.lineno}: the loader goes to more than who called, or a loop")
