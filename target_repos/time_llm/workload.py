"""Time-LLM's workload: windows of series in, the prompts that are written about them and the forecasts out.

Runs the checkout's own model: the reference tree, Time-LLM, a fork of it with prompts from a wavelet decomposition. The language
model is a GPT-2 with random weights and a tokenizer trained on a few words; both are built here, and nothing is downloaded.

Where other files than the model's are changed, they are run: batches from the checkout's data loader, and its training script, for
two short epochs. Accelerate, pandas and what else these import is not needed; small stand-ins take the place of it.

Options are described in ``OPTIONS``. Series are of many kinds, one after the other: prompts tell how a series goes, and what is
exactly zero, or says nothing but noise, is where two ways to compute that differ first.
"""

import contextlib
import importlib
import itertools
import json
import math
import os
import re
import sys
import types

from . import stand_ins, training
from .training import AHEAD, BATCHES, EPOCH, EPOCHS, LOADER

LIBRARIES = ("torch", "numpy", "transformers")
OPTIONS = {
    "size": "of the language model: tiny (width 32, some hundred words; the default), small (GPT-2's: width 768, 50257 words)",
    "layers": "of the language model (2)",
    "part": "what is run, with commas between: prompts (up to the tokenizer), tokens (up to the language model), forecast, "
    "wavelets (their features and the prompts, without what is around them), loader (batches of windows), epoch (the training script, "
    "two epochs); the last two always where their files are changed",
    "mode": "how, with commas between: inference, training (forward and backward; of a loader: shuffled)",
    "batch": "windows in a batch, with commas between (4)",
    "variables": "series in a window, with commas between (3)",
    "steps": "of a window, with commas between (96)",
    "prompt": "what writes the prompts: auto (the default: wavelets where the model has them), plain, dwt",
    "precision": "of the model's parameters: auto (the default: bfloat16, float32 where that fails, and in the script, where it "
    "is not about the model), bfloat16, float32",
}
GRID = {"batch": "4", "variables": "3", "steps": "96"}
SMALL = {"batch": "4", "variables": "1", "steps": "48"}
"""For the script, which goes through all of its data."""
WAVELETS = "wavelets"
OF_MODEL = ("prompts", "tokens", "forecast", WAVELETS)
PARTS, MODES = (*OF_MODEL, LOADER, EPOCH), ("inference", "training")
MODES_OF = {**dict.fromkeys(OF_MODEL, MODES[:1]), LOADER: MODES, EPOCH: MODES[1:]}
MAIN = ""
"""What the engine calls the model's file."""
FILES = {"loader": "data_provider/data_factory.py", "training": "run_main.py"}
PARTS_OF = {"loader": (LOADER,), "training": (EPOCH,)}
WIDTHS = {"tiny": (32, 2, None), "small": (768, 12, 50257)}
CHOICES = {"size": tuple(WIDTHS), "prompt": ("auto", "plain", "dwt"), "precision": ("auto", "bfloat16", "float32")}
COMPARED = (
    "prompts, inference, 11 x 1 x 96",
    "prompts, inference, 11 x 2 x 101",
    "prompts, inference, 5 x 7 x 96",
    "prompts, inference, 1 x 3 x 128",
    "tokens, inference, 3 x 2 x 96",
    "forecast, inference, 3 x 1 x 96",
    "forecast, training, 2 x 3 x 96",
    "forecast, training, 3 x 1 x 105",
    "wavelets, inference, 11 x 2 x 101",
    "wavelets, inference, 5 x 7 x 96",
    "loader, inference, 5 x 3 x 97",
    "loader, training, 3 x 1 x 33",
    "epoch, training, 3 x 2 x 41",
)
CASE = re.compile(r"(prompts|tokens|forecast|wavelets|loader|epoch), (inference|training), (\d+) x (\d+) x (\d+)")
PREDICTED, HUB_NAME = 24, os.path.join("openai-community", "gpt2")
KINDS = ("noise", "walk", "sine", "step", "constant", "zero", "sparse", "spikes", "trend", "tiny", "huge")


def prepare(folder, options):
    """The language model and its tokenizer, as files that ``from_pretrained`` finds below the current folder."""
    import torch
    from tokenizers import ByteLevelBPETokenizer
    from transformers import GPT2Config, GPT2Model

    _check(options)
    if _parts(options) == {LOADER}:
        return
    width, heads, words = WIDTHS[options.get("size", "tiny")]
    path = os.path.join(folder, HUB_NAME)
    os.makedirs(path)
    tokenizer = ByteLevelBPETokenizer()
    text = "<|start_prompt|>Forecast the next 96 steps from 512; values -0.123456789, upward, downward, [0, 1]<|<end_prompt>|>"
    tokenizer.train_from_iterator([text] * 9, vocab_size=400, min_frequency=1, special_tokens=["<|endoftext|>"])
    tokenizer.save_model(path)
    marks = {f"{name}_token": "<|endoftext|>" for name in ("bos", "eos", "unk")}
    with open(os.path.join(path, "tokenizer_config.json"), "w", encoding="utf-8") as file:
        json.dump({"tokenizer_class": "GPT2Tokenizer", "model_max_length": 1024, **marks}, file)
    torch.manual_seed(0)
    words = words or tokenizer.get_vocab_size()
    sizes = {"vocab_size": words, "n_embd": width, "n_layer": int(options.get("layers", "2")), "n_head": heads}
    GPT2Model(GPT2Config(**sizes, n_positions=1024, bos_token_id=0, eos_token_id=0)).save_pretrained(path)


def cases(options):
    """Every combination of what the options name."""
    _check(options)
    of_changed = _parts_of_changed(options)
    parts = options["part"].split(",") if "part" in options else of_changed
    parts = [*parts, *(part for part in of_changed if part not in (*OF_MODEL, *parts))]
    modes = options["mode"].split(",") if "mode" in options else None
    for name, known, given in (("part", PARTS, parts), ("mode", MODES, modes or ())):
        wrong = [word for word in given if word not in known]
        if wrong:
            raise ValueError(f"{name} is one of {', '.join(known)}, not {wrong[0]}")
    for name in GRID:
        words = options.get(name, GRID[name]).split(",")
        if not all(word.isascii() and word.isdigit() and int(word) for word in words):
            raise ValueError(f"{name} is a number from 1 (or several, with commas between), not {options[name]}")
    combined = [(part, mode) for part in parts for mode in modes or MODES_OF[part] if _has(part, mode)]
    found = [f"{part}, {mode}, {size}" for part, mode in combined for size in _sizes(part, options)]
    if not found:
        raise ValueError("mode=training is of part=forecast, loader and epoch, mode=inference of all but epoch")
    return found


def _sizes(part, options):
    """Every size that the options ask for."""
    lists = [options.get(name, usual).split(",") for name, usual in (SMALL if part == EPOCH else GRID).items()]
    return [" x ".join(size) for size in itertools.product(*lists)]


def _has(part, mode):
    return mode in MODES_OF[part] or part == "forecast"


def _parts_of_changed(options):
    """What is run for the files that are changed: for the model's own the prompts and the forecasts."""
    changed = options.get("parts") or {MAIN: ""}
    found = [PARTS_OF.get(name, ("prompts", "forecast")) for name in changed]
    return [part for part in PARTS if any(part in own for own in found)]


def _parts(options):
    """The parts that are run; those of the model together."""
    return {_group(CASE.fullmatch(case)[1]) for case in cases(options)}


def _group(part):
    return OF_MODEL if part in OF_MODEL else part


def _check(options):
    for name, known in CHOICES.items():
        if options.get(name, known[0]) not in known:
            raise ValueError(f"{name} is one of {', '.join(known)}, not {options[name]}")
    layers = options.get("layers", "2")
    if not (layers.isascii() and layers.isdigit() and int(layers)):
        raise ValueError(f"layers is a number from 1, not {layers}")


def more_cases(options):
    """What is compared besides, and not timed: of the same parts. Nothing at full size, where each shape has a model of its own."""
    if options.get("size", "tiny") != "tiny":
        return []
    own = _parts(options)
    return [case for case in COMPARED if _group(CASE.fullmatch(case)[1]) in own]


def load(folder, options):
    """A model for each number of variables and steps, in ``{"3 x 96": model}``; the loaders and the script are attributes of it."""
    import torch

    parts = _parts(options)
    if parts & {LOADER, EPOCH}:
        folder = training.workplace(folder, os.path.dirname(HUB_NAME))
    os.chdir(folder)  # from_pretrained looks for a folder of the model's name there
    built, files = torch.nn.ModuleDict(), {**FILES, **options.get("parts", {})}
    if parts & {OF_MODEL, EPOCH}:
        cls, is_dwt = _model(options)
    if OF_MODEL in parts:
        for case in dict.fromkeys([*cases(options), *more_cases(options)]):
            part, _, _, variables, steps = CASE.fullmatch(case).groups()
            if part in OF_MODEL and f"{variables} x {steps}" not in built:
                built[f"{variables} x {steps}"] = _built(cls, int(variables), int(steps), options, is_dwt)
        if options.get("part") == WAVELETS and not any(map(_generator, built.values())):
            raise ValueError("part=wavelets is of models that write prompts from wavelets, and this one does not")
    if LOADER in parts:
        with stand_ins.installed():
            provide = _import(files["loader"]).data_provider
        built.loaders = training.Loaders(provide)
    if EPOCH in parts:
        precision = options.get("precision", "auto")
        kind = torch.float32 if precision == "auto" else getattr(torch, precision)
        of_model = {
            "llm_dim": _width(options),
            "llm_layers": int(options.get("layers", "2")),
            "d_ff": min(32, _width(options)),
        }
        may_round = MAIN in options.get("parts", {})
        built.script = training.Script(
            files["training"], of_model, lambda m: _rounds_no_further(m.to(kind)), is_dwt, may_round
        )
    return built


def _model(options):
    """The class of the checkout's models, and whether wavelets write its prompts."""
    _quiet()
    module = _import(options["file"])
    cls = next(
        c for c in vars(module).values() if isinstance(c, type) and c.__module__ == module.__name__ and _is_model(c)
    )
    has_wavelets = any("DWT" in name for name in vars(module))
    return cls, {"auto": has_wavelets, "plain": False, "dwt": True}[options.get("prompt", "auto")]


def _is_model(cls):
    return hasattr(cls, "forecast") and hasattr(cls, "forward")


def _built(cls, variables, steps, options, is_dwt):
    """The model, in the first precision that it runs in."""
    import torch

    given = options.get("precision", "auto")
    for name in ("bfloat16", "float32") if given == "auto" else (given,):
        torch.manual_seed(0)
        model = _rounds_no_further(cls(_Configs(options, variables, steps, is_dwt)).to(getattr(torch, name)))
        try:
            with torch.no_grad():
                model.eval()(torch.randn(1, steps, variables), None, None, None)
            return model
        except RuntimeError:
            if name in ("float32", given):
                raise
    raise AssertionError("no precision")


def _width(options):
    return WIDTHS[options.get("size", "tiny")][0]


def _rounds_no_further(model):
    """The model. Have patches, which are rounded to 16 bits on the way there, embedded in the precision of the parameters."""
    layer = getattr(model, "patch_embedding", None)
    if layer is not None:
        layer.register_forward_pre_hook(lambda part, given: (given[0].to(next(part.parameters()).dtype), *given[1:]))
    return model


def double(subject):
    """All models in float64."""
    subject.double()


class _Configs(types.SimpleNamespace):
    """What is read of the command line; a switch that a fork has besides is off."""

    def __init__(self, options, variables, steps, is_dwt):
        width = _width(options)
        super().__init__(
            task_name="long_term_forecast",
            pred_len=PREDICTED,
            seq_len=steps,
            label_len=steps // 2,
            d_model=16,
            d_ff=min(32, width),
            n_heads=2,
            patch_len=16,
            stride=8,
            dropout=0.1,
            enc_in=variables,
            llm_model="GPT2",
            llm_dim=width,
            llm_layers=int(options.get("layers", "2")),
            prompt_domain=0,
            content="",
            use_dwt_prompt=is_dwt,
        )


def _import(file):
    """The model's module: packages beside the checkout's own (``layers``) are found from the folder that holds both."""
    return importlib.import_module(file.removesuffix(".py").replace("/", "."))


def _quiet():
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()


def amount(case):
    """Windows."""
    part, batch = CASE.fullmatch(case).group(1, 3)
    return float(int(batch) * BATCHES.get(part, 1) * (EPOCHS if part == EPOCH else 1)), "windows"


def inputs(case, seed):
    """``x_enc`` float32 (B, T, N): the variables of a window are of one kind, the windows of one kind after the other.

    For a loader and the script one ``series`` (T, N), of which they make windows.
    """
    import torch

    part, mode, batch, variables, steps = CASE.fullmatch(case).groups()
    batch, variables, steps = int(batch), int(variables), int(steps)
    generator = torch.Generator().manual_seed(seed)
    if part in (LOADER, EPOCH):
        series = torch.randn(_rows(part, batch, variables, steps), variables, generator=generator).cumsum(0) * 0.1
        return {"series": series, "shape": (batch, variables, steps), "part": part, "mode": mode}
    windows = [_series(KINDS[(seed + i) % len(KINDS)], steps, variables, generator) for i in range(batch)]
    return {"x_enc": torch.stack(windows), "shape": f"{variables} x {steps}", "part": part, "mode": mode}


def _series(kind, steps, variables, generator):
    """(T, N) of one of the ``KINDS``."""
    import torch

    noise = torch.randn(steps, variables, generator=generator)
    time = torch.arange(steps, dtype=torch.float32)[:, None].expand(-1, variables)
    own = torch.rand(2, generator=generator)  # no window of a kind is that of another seed, but for zeros
    if kind == "walk":
        return noise.cumsum(0)
    if kind == "sine":
        return torch.sin(time * (0.1 + 0.05 * torch.arange(variables)) + 6 * own[0])
    if kind == "step":
        return (time > steps * (0.2 + 0.6 * own[0])).to(torch.float32) * (1 + own[1]) - own[0]
    if kind in ("constant", "zero"):
        return torch.full((steps, variables), float(own[0] * 6 - 3) if kind == "constant" else 0.0)
    if kind == "sparse":
        return noise * (noise > 1.5)
    if kind == "spikes":
        return noise * 0.01 + (time % 17 == 3) * 10.0
    if kind == "trend":
        return time * 0.05 + noise * 0.1
    return noise * {"tiny": 1e-6, "huge": 1e6}.get(kind, 1.0)


def _rows(part, batch, variables, steps):
    """How long a series has to be for so many batches to train with, and a few for other ends."""
    windows, ahead = -(-BATCHES[part] * batch // variables), AHEAD[part]
    few = -(-2 * batch // variables)
    others = (windows + ahead) / 0.2 if part == LOADER else (few + ahead) / 0.1
    return (math.ceil(max((steps + ahead + windows) / 0.7, others)) + 2) | 1  # odd: nothing is to depend on even sizes


def on_device(inputs):
    """The windows; nothing, where a loader makes them on the host."""
    return inputs.get("x_enc", [])


class _Stop(Exception):
    """What was asked for is there."""


def run(subject, inputs):
    """The prompts, the tokens, or the forecasts with the tokens; batches; or what the script prints, and what it has trained."""
    import torch

    part = inputs["part"]
    if part == LOADER:
        return {"batches": subject.loaders.batches(inputs)}
    if part == EPOCH:
        return subject.script.run(inputs) if torch.is_grad_enabled() else {"printed": []}  # it does nothing but train
    model = subject[inputs["shape"]]
    if part == WAVELETS:
        return _wavelets_of_each(model, inputs["x_enc"])
    if model.training != (inputs["mode"] == "training"):  # an evaluation says so once, and not for each batch
        model.train(not model.training)
    outputs = {}
    context = torch.no_grad() if inputs["mode"] == "inference" else contextlib.nullcontext()
    with context, _recording(model, part, outputs), contextlib.suppress(_Stop):
        outputs["forecast"] = model(inputs["x_enc"], None, None, None)
    if inputs["mode"] == "training" and outputs["forecast"].requires_grad:
        own = [parameter for parameter in model.parameters() if parameter.requires_grad]
        torch.autograd.grad(loss(outputs), own, allow_unused=True, retain_graph=True)
    return outputs


def _wavelets_of_each(model, windows):
    """The features of each window as the checkout has them, all at once where it can; and the prompts about them."""
    import torch

    generator = _generator(model)
    if generator is None:
        return {"features": "none: its prompts are of another kind"}
    series = windows.permute(0, 2, 1).contiguous()
    given = {"min": -1.25, "max": 2.5, "median": 0.5, "lags": [1, 2, 3, 5, 8], "description": "Waves."}
    given |= {"seq_len": windows.shape[1], "pred_len": PREDICTED}
    features, prompts = [], []
    with torch.no_grad():
        found = generator.features_of_each(series) if hasattr(generator, "features_of_each") else {}
        for b in range(len(series)):
            features.append(found.get(b) or generator(series[b : b + 1]))
            prompts.append(generator.build_prompt_text(features[-1], given))
    return {
        "features": [{name: _plain(value) for name, value in each.items()} for each in features],
        "prompts": prompts,
    }


def _plain(value):
    """A feature as a workload may give it."""
    if type(value).__module__ == "numpy":
        return {
            "type": type(value).__name__,
            "numbers": str(value.dtype),
            "shape": list(value.shape),
            "values": value.tolist(),
        }
    return value


def _generator(model):
    """What puts a decomposition into words; nothing, where prompts are of another kind."""
    return next((part for part in model.modules() if "DWT" in type(part).__name__), None)


@contextlib.contextmanager
def _recording(model, part, outputs):
    """Keep the prompts that the tokenizer gets, or the tokens that are looked up; stop there, where no more is asked for.

    The tokenizer is of another class where prompts are kept, and otherwise as it is: some changes ask for its class.
    """
    tokenizer = _tokenizer(model)
    cls = type(tokenizer)

    def called(self, text, *more, **options):
        outputs["prompts"] = [text] if isinstance(text, str) else list(text)
        raise _Stop

    def looked_up(layer, given):
        outputs["tokens"] = given[0]
        if part == "tokens":
            raise _Stop

    if part == "prompts":
        _with_method(tokenizer, "__call__", called)
    hook = _words(model).register_forward_pre_hook(looked_up)
    try:
        yield
    finally:
        hook.remove()
        tokenizer.__class__ = cls


def _with_method(thing, name, method):
    """Give ``thing`` a class of its own, that of before with another method."""
    cls = type(thing)
    thing.__class__ = type(cls.__name__, (cls,), {name: method})


def _tokenizer(model):
    from transformers import PreTrainedTokenizerBase

    return next(value for value in vars(model).values() if isinstance(value, PreTrainedTokenizerBase))


def _language_model(model):
    from transformers import PreTrainedModel

    return next(part for part in model.modules() if isinstance(part, PreTrainedModel))


def _words(model):
    return _language_model(model).get_input_embeddings()


def module(subject):
    """All models, where there are any."""
    return subject if len(subject) else None


def loss(outputs):
    """The forecasts against waves; nothing, where there are none."""
    import torch

    if "forecast" not in outputs:
        return torch.zeros(())
    made = outputs["forecast"].float()
    return ((made - torch.sin(torch.arange(made.numel()).view(made.shape) * 0.1)) ** 2).mean()


def stages(subject):
    """The prompts' statistics, the wavelets and what is made of them, linear layers (the largest mixes words), the language model."""
    if not subject:
        return {}
    model = next(iter(subject.values()))
    language_model = _language_model(model)
    found = {
        "linear layers": (type(model.mapping_layer), "forward"),
        "language model": (type(language_model), "forward"),
    }
    for name, stage in (("calcute_lags", "lags"), ("calculate_lags", "lags")):
        if hasattr(type(model), name):
            found[stage] = (type(model), name)
    generator = _generator(model)
    if generator is not None:
        named = {
            "wavelets": "forward",
            "wavelets of a batch": "features_of_each",
            "difficulty": "_calculate_difficulty",
        }
        named |= {f"{kind} features": f"_extract_{kind}_features" for kind in ("frequency", "trend", "quality")}
        if "ptwt" in sys.modules:
            found["decomposition"] = (sys.modules["ptwt"], "wavedec")
        found |= {stage: (type(generator), name) for stage, name in named.items() if hasattr(type(generator), name)}
    return found


def entry(subject):
    """The model. Raises :class:`ValueError` where no model is run."""
    if not subject:
        raise ValueError(
            "part=loader and part=epoch run no model of their own: ask for another one, too (part=forecast,loader)"
        )
    return type(next(iter(subject.values()))), "forward"


def bad_inputs():
    """No numbers in one window, a window too few, a text, a flat batch."""
    import torch

    good = inputs(COMPARED[4], 0)
    broken = {"NaN": float("nan"), "infinity": float("inf")}
    found = {name: {**good, "x_enc": _with(good["x_enc"], value)} for name, value in broken.items()}
    found["no windows"] = {**good, "x_enc": torch.zeros(0, 96, 2)}
    found["flat"] = {**good, "x_enc": torch.zeros(96, 2)}
    return {**found, "text": {**good, "x_enc": "a series"}}


def _with(x, value):
    x = x.clone()
    x[1, 5, 0] = value
    return x


# Wrong on purpose


def _wrong_prompts(change):
    """Every prompt as ``change(prompts)`` has it."""

    def wrong(subject):
        if not subject:
            return False
        for model in subject.values():
            tokenizer = _tokenizer(model)
            cls = type(tokenizer)

            def called(self, text, *more, cls=cls, **options):
                return cls.__call__(self, change(text), *more, **options)

            _with_method(tokenizer, "__call__", called)
        return True

    return wrong


def _stale_words(subject):
    """The mixtures of words as they were at first, whatever has been learnt since."""
    if not subject:
        return False
    for model in subject.values():
        layer, kept = model.mapping_layer, []

        def forward(x, layer=layer, kept=kept):
            kept.extend([] if kept else [type(layer).forward(layer, x).detach()])
            return kept[0]

        layer.forward = forward
    return True


def _wrong_loaders(change):
    """Every data set and its loader as ``change(data, loader)`` leaves them."""

    def wrong(subject):
        if not hasattr(subject, "loaders"):
            return False
        provide = subject.loaders.provide

        def changed(args, flag):
            data, loader = provide(args, flag)
            change(data, loader)
            return data, loader

        subject.loaders.provide = changed
        return True

    return wrong


def _late(data, loader):
    """Every window a step later, but the last."""
    cls = type(data)
    _with_method(data, "__getitem__", lambda self, i: cls.__getitem__(self, min(i + 1, len(self) - 1)))


def _turned(data, loader):
    """The windows of each batch in another order."""
    collate = loader.collate_fn
    loader.collate_fn = lambda samples: collate([*samples[1:], samples[0]])


def _last_loss(subject):
    """The last of an epoch's losses for all of them: what a list of one tensor, written to again and again, would give."""
    if not hasattr(subject, "script"):
        return False
    subject.script.figures = lambda values: [values[-1]] * len(values)
    return True


WRONG = {
    "one prompt for the whole batch": _wrong_prompts(lambda prompts: [prompts[0]] * len(prompts)),
    "the neighbours' prompts": _wrong_prompts(lambda prompts: [*prompts[1:], prompts[0]]),
    "words that do not learn": _stale_words,
    "windows a step late": _wrong_loaders(_late),
    "windows of a batch in another order": _wrong_loaders(_turned),
    "the last loss for all": _last_loss,
}
