"""Scale images on the device: the training moves uint8 there, a quarter of the bytes, and divides afterwards.

Needs loaders that hand images over as they are stored (``act_uint8_transfer``). On a GPU a division by a number is a multiplication by
its reciprocal (https://github.com/pytorch/pytorch/blob/main/aten/src/ATen/native/cuda/BinaryDivTrueKernel.cu), which is another last bit
for 126 of 256 values: what is written divides by a tensor.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping, Sequence

from apply_opt.errors import Ambiguous, NoSite, PartlyApplied
from apply_opt.model.codemod import OURS, TODO, Site
from apply_opt.model.parameters import Value
from apply_opt.model.source import Edit, Source

from ._batch_flow import Unpacked, unpacked
from ._helpers import check_imported, helpers, insert_above, is_used, refuse_compiled
from ._lines import above, below, block_of, is_alone, starts_line
from ._scopes import calls, calls_of, named, paired

SITES, HELPER, FLAG = ("loaders", "forward"), "_scaled_if_uint8", "images_as_uint8"
HELPER_TEXT = f'''
def {HELPER}(images):
    """uint8 images (B, K, H, W, C) of a loader with `{FLAG}` as float32 (B, K, C, H, W) from 0 to 1; others as they are."""
    if images.dtype != torch.uint8:
        return images
    if not images.is_cpu:  # a GPU would multiply by 1 / 255 where it is given a number: other last bits
        return images.movedim(-1, -3).contiguous() / torch.full((), 255.0, device=images.device)
    scaled = torch.from_numpy(np.empty(images.movedim(-1, -3).shape, np.float32))
    for image, made in zip(images.flatten(0, -4), scaled.flatten(0, -4)):
        made.copy_(image.movedim(-1, -3)).div_(255.0)
    return scaled
'''
IMAGES = re.compile(r"image|img|pixel", re.IGNORECASE)
DEVICES = re.compile(r"device|cuda|gpu|rank", re.IGNORECASE)


def find(source: Source, parameters: Mapping[str, Value]) -> list[Site]:
    """The sites ``loaders``, where the script gets them, and ``forward``, where it takes a batch apart."""
    flags = [n for n in named(source, FLAG) if isinstance(n, ast.Attribute) and isinstance(n.ctx, ast.Store)]
    uses = calls(source, HELPER)
    if is_used(source, HELPER, uses, 1) != bool(flags):
        line = getattr([*flags, *uses, *helpers(source, HELPER)][0], "lineno", 1)
        raise PartlyApplied(
            f"{source.name}:{line} is partly applied: of {FLAG} and {HELPER} one is missing",
            "take the part that is there out by hand, then apply again",
        )
    if flags:
        return [Site(SITES[0], flags[0].lineno, OURS), Site(SITES[1], uses[0].lineno, OURS)]
    statement, _, parts = _places(source)
    return [Site(SITES[0], statement.lineno, TODO), Site(SITES[1], parts.statement.lineno, TODO)]


def edit(source: Source, parameters: Mapping[str, Value], sites: Sequence[Site]) -> list[Edit]:
    """The helper above the function that takes batches apart, called before images are used; a line below ``load_data``."""
    statement, names, parts = _places(source)
    images = _images(source, parts)
    flags = " = ".join(f"{name}.{FLAG}" for name in names)
    return [
        insert_above(source, parts.function, HELPER_TEXT),
        above(source, _first_use(source, parts, images), f"{images} = {HELPER}({images})"),
        below(source, statement, f"{flags} = True  # {HELPER} makes floats of them"),
    ]


def _places(source: Source) -> tuple[ast.Assign, list[str], Unpacked]:
    """The call of ``load_data``, the variables with loaders, and the only place where batches are taken apart."""
    found = calls_of(source, "load_data")
    if not found:
        raise NoSite(f"{source.name}: there is no call of load_data")
    if len(found) > 1:
        raise Ambiguous(f"{source.name}: load_data is called in {len(found)} places: lines " + _lines(found))
    statement = source.statement(found[0])
    where = f"{source.name}:{statement.lineno}"
    target = statement.targets[0] if isinstance(statement, ast.Assign) and len(statement.targets) == 1 else None
    if not isinstance(statement, ast.Assign) or statement.value is not found[0] or not isinstance(target, ast.Tuple):
        raise Ambiguous(f"{where}: what load_data gives does not go to variables")
    if not all(isinstance(part, ast.Name) for part in target.elts) or not is_alone(source, statement):
        raise Ambiguous(f"{where}: what load_data gives goes to more than variables")
    names, parts = _loaders(source, [part for part in target.elts if isinstance(part, ast.Name)])
    _first_use(source, parts, _images(source, parts))
    refuse_compiled(source, parts.function)
    check_imported(source, "torch", "np")
    return statement, names, parts


def _lines(nodes: Sequence[ast.expr]) -> str:
    return ", ".join(str(node.lineno) for node in nodes)


def _loaders(source: Source, targets: Sequence[ast.Name]) -> tuple[list[str], Unpacked]:
    """Those of the variables whose batches are taken apart, the first one among them, and where they are."""
    flows = {targets[0].id: unpacked(source, [targets[0]])}
    for target in targets[1:]:
        try:
            flows[target.id] = unpacked(source, [target])
        except Ambiguous:  # statistics; or a loader whose batches stay as they are
            continue
    places = sorted({parts for found in flows.values() for parts in found}, key=lambda parts: parts.statement.lineno)
    if not flows[targets[0].id]:
        raise NoSite(f"{source.name}:{targets[0].lineno}: no batch of {targets[0].id} is taken apart in this file")
    if len(places) > 1:
        lines = ", ".join(str(parts.statement.lineno) for parts in places)
        raise Ambiguous(f"{source.name}: batches are taken apart in {len(places)} places: lines {lines}")
    return [name for name, found in flows.items() if found], places[0]


def _images(source: Source, parts: Unpacked) -> str:
    """The variable that gets a batch's images."""
    (target,) = parts.statement.targets
    names = [part.id for part in getattr(target, "elts", ()) if isinstance(part, ast.Name)]
    found = [name for name in names if IMAGES.search(name)]
    if len(found) != 1:
        what = ", ".join(names)
        raise Ambiguous(f"{source.name}:{parts.statement.lineno}: which of {what} a batch's images are cannot be told")
    return found[0]


def _first_use(source: Source, parts: Unpacked, images: str) -> ast.stmt:
    """The first statement behind that does something else with the images than to move them to a device."""
    block = block_of(source, parts.statement)
    for statement in block[block.index(parts.statement) + 1 :]:
        uses = any(isinstance(n, ast.Name) and n.id == images for n in ast.walk(statement))
        if uses and not _is_move(statement, images):
            if not starts_line(source, statement):
                break
            return statement
    raise Ambiguous(f"{source.name}:{parts.statement.lineno}: where {images} is used, behind that, cannot be told")


def _is_move(statement: ast.stmt, images: str) -> bool:
    """``images = images.cuda()``, also beside other variables and under a condition."""
    if isinstance(statement, ast.If) and not any(
        isinstance(n, ast.Name) and n.id == images for n in ast.walk(statement.test)
    ):
        return all(_is_move(inner, images) for inner in (*statement.body, *statement.orelse))
    if not isinstance(statement, ast.Assign) or len(statement.targets) != 1:
        return not any(isinstance(n, ast.Name) and n.id == images for n in ast.walk(statement))
    pairs = [(getattr(t, "id", ""), value) for t, value in paired(statement.targets[0], statement.value)]
    own = [value for name, value in pairs if name == images]
    others = [value for name, value in pairs if name != images]
    read = any(isinstance(n, ast.Name) and n.id == images for value in others for n in ast.walk(value))
    return not read and all(_is_moved(value, images) for value in own)


def _is_moved(value: ast.expr, images: str) -> bool:
    """``images.cuda()`` and ``images.to(device)``, which change no number."""
    if not isinstance(value, ast.Call) or not isinstance(value.func, ast.Attribute):
        return False
    base, method = value.func.value, value.func.attr
    given = [ast.unparse(argument) for argument in value.args]
    is_plain = all(keyword.arg in ("non_blocking", "device") for keyword in value.keywords)
    is_device = method == "cuda" or (
        method == "to" and all(DEVICES.search(text) and "type" not in text for text in given)
    )
    return isinstance(base, ast.Name) and base.id == images and is_plain and is_device and len(given) <= 1
