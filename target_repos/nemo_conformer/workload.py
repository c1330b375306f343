"""The encoder's workload: random log-mel frames of utterances of mixed lengths in, encoded frames out.

Runs the checkout's own files: the reference tree, NeMo (a clone, an unpacked wheel, an installed package), or a port in one
file. Of NeMo only the encoder's own modules are loaded. What these import besides is for configuration, export and
adapters, and needs a hundred other packages; small stand-ins take its place, so that torch alone has to be there.

The weights are random, from a fixed seed. Options are described in ``OPTIONS``.
"""

import contextlib
import functools
import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import itertools
import os
import re
import sys
import types

LIBRARIES = ("torch",)
OPTIONS = {
    "size": "of the encoder: tiny (2 layers of 32), small (the default: 4 of 256), large (17 of 512)",
    "part": "what is run, with commas between: subsampling, encoder",
    "mode": "how, with commas between: inference, training (forward and backward)",
    "batch": "utterances in a batch (4)",
    "frames": "log-mel frames (10 ms) of the longest, with commas between (400)",
    "lengths": "mixed (the default: from none to all of the frames), or full",
}
SIZES = {"tiny": (2, 32, 2), "small": (4, 256, 4), "large": (17, 512, 8)}
FEATURES, FACTOR, KERNEL = 80, 8, 9
GRID = {"part": "subsampling,encoder", "mode": "inference,training", "batch": "4", "frames": "400", "lengths": "mixed"}
PARTS, MODES, LENGTHS = ("subsampling", "encoder"), ("inference", "training"), ("mixed", "full")
# What a change of the masks or of the attention could break: a single frame, odd shapes, causal convolutions, other strides, lower
# precision, modes without gradients, hooks that look inside, and capture.
COMPARED = (
    "subsampling, forward, 4 x 211, mixed",
    "encoder, forward, 3 x 400, mixed",
    "encoder, training, 2 x 83, mixed",
    "causal encoder, forward, 2 x 97, mixed",
    "striding subsampling, forward, 3 x 101, mixed",
    "subsampling, forward, 3 x 64, full",
    "subsampling, autocast, 3 x 128, mixed",
    "subsampling, inference mode, 2 x 75, mixed",
    "subsampling, hooks, 2 x 61, mixed",
    "subsampling, exported, 2 x 64, mixed",
    "encoder, autocast, 2 x 150, mixed",
    "encoder, inference mode, 1 x 333, full",
    "encoder, forward, 2 x 7, full",
)
CASE = re.compile(r"(?:(causal|striding) )?(subsampling|encoder), ([a-z ]+), (\d+) x (\d+), (mixed|full)")


def prepare(folder, options):
    """Nothing: the weights are drawn when the encoder is built."""
    if options.get("size", "small") not in SIZES:
        raise ValueError(f"size is one of {', '.join(SIZES)}, not {options['size']}")


def cases(options):
    """Every combination of what the options name."""
    lists = {name: options.get(name, usual).split(",") for name, usual in GRID.items()}
    for name, known in (("part", PARTS), ("mode", MODES), ("lengths", LENGTHS)):
        wrong = [word for word in lists[name] if word not in known]
        if wrong:
            raise ValueError(f"{name} is one of {', '.join(known)}, not {wrong[0]}")
    for name in ("batch", "frames"):
        if not all(word.isascii() and word.isdigit() and int(word) for word in lists[name]):
            raise ValueError(f"{name} is a number from 1 (or several, with commas between), not {options[name]}")
    return [f"{part}, {mode}, {b} x {t}, {how}" for part, mode, b, t, how in itertools.product(*lists.values())]


def more_cases(options):
    """What is compared besides, and not timed."""
    return list(COMPARED)


def load(folder, options):
    """The encoders that the cases ask for, each with other convolutions, by their kind; those that are timed are plain."""
    import torch

    module = _import(options["file"])
    layers, width, heads = SIZES[options.get("size", "small")]
    kinds = sorted({CASE.fullmatch(case)[1] or "" for case in COMPARED})
    built = torch.nn.ModuleDict()
    for kind in kinds:
        built[kind or "plain"] = module.ConformerEncoder(
            feat_in=FEATURES,
            n_layers=layers if not kind else 1,
            d_model=width,
            n_heads=heads,
            subsampling="striding" if kind == "striding" else "dw_striding",
            subsampling_factor=FACTOR,
            subsampling_conv_channels=width,
            causal_downsampling=kind == "causal",
            conv_kernel_size=KERNEL,
        )
    return built


def amount(case):
    """Frames, all utterances together, those of the padding too."""
    _, _, _, batch, frames, _ = CASE.fullmatch(case).groups()
    return float(batch) * float(frames), "frames"


def inputs(case, seed):
    """``audio_signal`` float32 (B, 80, T), ``length`` int64 (B,): one utterance fills the batch, one is empty or very short."""
    import torch

    kind, part, mode, batch, frames, how = CASE.fullmatch(case).groups()
    batch, frames = int(batch), int(frames)
    generator = torch.Generator().manual_seed(seed)
    signal = torch.randn(batch, FEATURES, frames, generator=generator)
    length = torch.full((batch,), frames)
    if how == "mixed":
        length = torch.randint(2, frames + 1, (batch,), generator=generator)
        length[seed % batch] = frames
        length[(seed + 1) % batch] = min(seed % 3, frames)
    return {"audio_signal": signal, "length": length, "kind": kind or "plain", "part": part, "mode": mode}


def run(subject, inputs):
    """The frames that come out, their lengths, and with hooks what they saw.

    In training the gradients are computed too, for the time that it takes; compared are those that :func:`loss` has.
    """
    import torch

    encoder, mode = subject[inputs["kind"]], inputs["mode"]
    encoder.train(mode == "training")
    signal, length = inputs["audio_signal"], inputs["length"]
    call, signal = (encoder, signal) if inputs["part"] == "encoder" else (encoder.pre_encode, signal.transpose(1, 2))
    if mode == "exported":
        call = _exported(call, signal.shape)
    with _mode(mode), _seen(call if mode == "hooks" else None) as seen:
        encoded, lengths = call(x=signal, lengths=length) if call is not encoder else call(signal, length)
    outputs = {"encoded": encoded, "lengths": lengths, "seen": seen}
    if mode == "training" and encoded.requires_grad:
        torch.autograd.grad(loss(outputs), list(encoder.parameters()), allow_unused=True, retain_graph=True)
    return outputs


def _mode(mode):
    import torch

    contexts = {
        "inference": torch.no_grad,
        "exported": torch.no_grad,
        "inference mode": torch.inference_mode,
        "autocast": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
    }
    return contexts.get(mode, contextlib.nullcontext)()


@functools.cache
def _exported(subsampling, shape):
    """Captured once for each shape, with full utterances: what is run then has others."""
    import torch

    given = {"x": torch.zeros(shape), "lengths": torch.full(shape[:1], shape[1])}
    return torch.export.export(subsampling, (), given, strict=False).module()


@contextlib.contextmanager
def _seen(module):
    """What every layer inside ``module`` gives, by its name; in the usual order in memory, which is not part of a result."""
    seen = {}
    hooks = [
        layer.register_forward_hook(lambda layer, given, result, name=name: seen.update({name: result.contiguous()}))
        for name, layer in (module.named_modules() if module is not None else ())
        if not list(layer.children())
    ]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


def module(subject):
    """All encoders."""
    return subject


def loss(outputs):
    """What comes out against waves. Its square would not do: behind a layer norm that is the same, whatever went in."""
    import torch

    encoded = outputs["encoded"]
    waves = torch.sin(torch.arange(encoded.numel(), device=encoded.device)).view(encoded.shape)
    return (encoded * waves.to(torch.promote_types(encoded.dtype, torch.float32))).mean()


def double(subject):
    """Weights, and so all that is computed, in float64."""
    subject.double()


def stages(subject):
    """The subsampling, and in the layers attention, convolution and the feed-forward modules."""
    encoder = next(iter(subject.values()))
    layer = encoder.layers[0]
    found = {"subsampling": encoder.pre_encode, "attention": layer.self_attn, "convolution": layer.conv}
    found["feed-forward"] = layer.feed_forward1
    return {name: (type(part), "forward") for name, part in found.items()}


def entry(subject):
    """The encoder."""
    return type(next(iter(subject.values()))), "forward"


def bad_inputs():
    """One feature too few, no lengths of the right number, a text."""
    import torch

    case = COMPARED[1]
    good = inputs(case, 0)
    return {
        "features": {**good, "audio_signal": good["audio_signal"][:, 1:]},
        "lengths": {**good, "length": good["length"][:2]},
        "text": {**good, "audio_signal": "speech"},
        "no frames": {**good, "audio_signal": torch.zeros(3, FEATURES, 0)},
    }


# Wrong on purpose: each replaces how the frames go through the convolutions, whatever the code calls what masks them


def _replaced(subject, forward):
    """`forward(original, convolutions, x, lengths)` for the masked convolutions of every encoder; ``False`` without such."""
    for encoder in subject.values():
        convolutions = encoder.pre_encode.conv
        if not _is_masked(convolutions):
            return False
        convolutions.forward = functools.partial(forward, convolutions.forward, convolutions)
    return True


def _is_masked(convolutions):
    """Whether they are told the lengths: before 2.5, NeMo's are not."""
    import torch

    return type(convolutions).forward is not torch.nn.Sequential.forward


def _in_place(subject):
    """As published: ``tensor.mul_(mask.unsqueeze(1))``. It overwrites the caller's frames, and what autograd has kept."""

    def forward(original, layers, x, lengths):
        x, places = x.unsqueeze(1), lengths.clone()
        for layer in layers:
            x.mul_(_mask(x, places))
            x, before = layer(x), x
            if x.shape[2] != before.shape[2]:
                padding = getattr(layer, "_left_padding", layer.padding[0]) + getattr(
                    layer, "_right_padding", layer.padding[0]
                )
                places = (places + padding - layer.kernel_size[0]) // layer.stride[0] + 1
        return x.mul_(_mask(x, places)), places

    return _replaced(subject, forward)


def _mask(x, lengths):
    """(B, 1, T, 1) for frames (B, C, T, F): 0 behind the end of each utterance, else 1."""
    import torch

    return (torch.arange(x.shape[2]) < lengths[:, None]).to(x.dtype)[:, None, :, None]


def _no_masks(subject):
    import torch

    def forward(original, layers, x, lengths):
        return original(x, torch.full_like(lengths, x.shape[1]))[0], original(x, lengths)[1]

    return _replaced(subject, forward)


def _one_frame_more(subject):
    def forward(original, layers, x, lengths):
        return original(x, (lengths + 1).clamp(max=x.shape[1]))[0], original(x, lengths)[1]

    return _replaced(subject, forward)


def _shifted_by_one(subject):
    """Each frame's scores are those of the distance to the next."""
    for encoder in subject.values():
        for layer in encoder.layers:
            attention = layer.self_attn
            original = attention.rel_shift
            attention.rel_shift = lambda x, original=original: original(x.roll(1, -1))


WRONG = {
    "masks in place, as published": _in_place,
    "no masks": _no_masks,
    "one frame more": _one_frame_more,
    "scores shifted by one": _shifted_by_one,
}


# Loading

OWN = re.compile(
    r".*collections[./]asr[./](modules[./]conformer_encoder|parts[./](submodules[./]\w+|mixins[./]streaming"
    r"|utils[./](regularization_utils|activations)))"
)
"""The modules of NeMo that the encoder is made of: everything else that they import is stood in for."""
MASKS, ENCODER = "parts/submodules/subsampling.py", "modules/conformer_encoder.py"


def _import(file):
    """The module that holds ``ConformerEncoder``: beside the changed file, or that file itself."""
    path = file.replace(MASKS, ENCODER) if file.endswith(MASKS) else file
    parts = path.removesuffix(".py").split("/")
    above = parts[: parts.index("nemo")] if "nemo" in parts else []
    names = parts[len(above) :]
    root = os.path.join(sys.path[0], *above)
    sys.path.insert(0, root)
    if len(names) > 1:
        sys.meta_path.insert(0, _Packages(root, names[0]))
    if importlib.util.find_spec("omegaconf") is None:
        sys.modules["omegaconf"] = StandIn("omegaconf")
    return importlib.import_module(".".join(names))


class _Packages(importlib.abc.MetaPathFinder):
    """Finds the packages of ``top``, of which no ``__init__`` is run, and stand-ins for NeMo's modules but :data:`OWN`."""

    def __init__(self, root, top):
        self.root, self.top = root, top

    def find_spec(self, name, path=None, target=None):
        """A package without contents, a stand-in, or None: Python goes on to look for the file."""
        if name.partition(".")[0] != self.top:
            return None
        place = os.path.join(self.root, *name.split("."))
        if os.path.isdir(place):
            spec = importlib.machinery.ModuleSpec(name, _Loader(), is_package=True)
            spec.submodule_search_locations = [place]
            return spec
        is_real = self.top != "nemo" or OWN.fullmatch(name)
        return None if is_real else importlib.machinery.ModuleSpec(name, _Loader(), is_package=True)


class _Loader(importlib.abc.Loader):
    def create_module(self, spec):
        return StandIn(spec.name)

    def exec_module(self, module):
        pass


class StandIn(types.ModuleType):
    """A module in which every name is something: what :func:`_known` has under it, else an empty class."""

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        empty = type(name, (), {"__init__": lambda self, *given, **named: None})
        found = _known().get(name, empty)
        setattr(self, name, found)
        return found


@functools.cache
def _known():
    """What the encoder uses of the rest of NeMo when it runs."""
    import logging

    import torch

    class WithoutAccess:
        def is_access_enabled(self, guid=None):
            return False

    class WithoutAdapters:
        def is_adapter_available(self):
            return False

    class Undecorated:
        def __init__(self, *given, **named):
            pass

        def __call__(self, function):
            return function

    return {
        "AccessMixin": WithoutAccess,
        "AdapterModuleMixin": WithoutAdapters,
        "AttentionAdapterModuleMixin": WithoutAdapters,
        "NeuralModule": torch.nn.Module,
        "activation_registry": {},
        "adapter_mixins": StandIn("adapter_mixins"),
        "avoid_float16_autocast_context": contextlib.nullcontext,
        "logging": logging.getLogger("nemo"),
        "typecheck": Undecorated,
    }
