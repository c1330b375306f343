"""Time-LLM's workload: windows of series in, the prompts that are written about them and the forecasts out.

Runs the checkout's own model: the reference tree, Time-LLM, a fork of it with prompts from a wavelet decomposition. The language
model is a GPT-2 with random weights and a tokenizer trained on a few words; both are built here, and nothing is downloaded.

Options are described in ``OPTIONS``. Series are of many kinds, one after the other: prompts tell how a series goes, and what is
exactly zero, or says nothing but noise, is where two ways to compute that differ first.
"""

import contextlib
import importlib
import itertools
import json
import os
import re
import types

LIBRARIES = ("torch", "numpy", "transformers")
OPTIONS = {
    "size": "of the language model: tiny (width 32, some hundred words; the default), small (GPT-2's: width 768, 50257 words)",
    "layers": "of the language model (2)",
    "part": "what is run, with commas between: prompts (up to the tokenizer), tokens (up to the language model), forecast",
    "mode": "how, with commas between: inference, training (forward and backward)",
    "batch": "windows in a batch, with commas between (4)",
    "variables": "series in a window, with commas between (3)",
    "steps": "of a window, with commas between (96)",
    "prompt": "what writes the prompts: auto (the default: wavelets where the model has them), plain, dwt",
    "precision": "of the model's parameters: auto (the default: bfloat16, float32 where that fails), bfloat16, float32",
}
GRID = {"part": "prompts,forecast", "mode": "inference", "batch": "4", "variables": "3", "steps": "96"}
PARTS, MODES = ("prompts", "tokens", "forecast"), ("inference", "training")
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
)
CASE = re.compile(r"(prompts|tokens|forecast), (inference|training), (\d+) x (\d+) x (\d+)")
PREDICTED, NAME, HUB_NAME = 24, "TimeLLM", os.path.join("openai-community", "gpt2")
KINDS = ("noise", "walk", "sine", "step", "constant", "zero", "sparse", "spikes", "trend", "tiny", "huge")


def prepare(folder, options):
    """The language model and its tokenizer, as files that ``from_pretrained`` finds below the current folder."""
    import torch
    from tokenizers import ByteLevelBPETokenizer
    from transformers import GPT2Config, GPT2Model

    _check(options)
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
    lists = {name: options.get(name, usual).split(",") for name, usual in GRID.items()}
    for name, known in (("part", PARTS), ("mode", MODES)):
        wrong = [word for word in lists[name] if word not in known]
        if wrong:
            raise ValueError(f"{name} is one of {', '.join(known)}, not {wrong[0]}")
    for name in ("batch", "variables", "steps"):
        if not all(word.isascii() and word.isdigit() and int(word) for word in lists[name]):
            raise ValueError(f"{name} is a number from 1 (or several, with commas between), not {options[name]}")
    combined = itertools.product(*lists.values())
    found = [
        f"{part}, {mode}, {b} x {n} x {t}" for part, mode, b, n, t in combined if part == "forecast" or mode == MODES[0]
    ]
    if not found:
        raise ValueError("mode=training is of part=forecast")
    return found


def _check(options):
    for name, known in CHOICES.items():
        if options.get(name, known[0]) not in known:
            raise ValueError(f"{name} is one of {', '.join(known)}, not {options[name]}")
    layers = options.get("layers", "2")
    if not (layers.isascii() and layers.isdigit() and int(layers)):
        raise ValueError(f"layers is a number from 1, not {layers}")


def more_cases(options):
    """What is compared besides, and not timed."""
    return list(COMPARED)


def load(folder, options):
    """A model for each number of variables and steps, in ``{"3 x 96": model}``."""
    import torch

    os.chdir(folder)  # from_pretrained looks for a folder of the model's name there
    _quiet()
    module = _import(options["file"])
    cls = next(
        c for c in vars(module).values() if isinstance(c, type) and c.__module__ == module.__name__ and _is_model(c)
    )
    has_wavelets = any("DWT" in name for name in vars(module))
    is_dwt = {"auto": has_wavelets, "plain": False, "dwt": True}[options.get("prompt", "auto")]
    built = torch.nn.ModuleDict()
    for case in dict.fromkeys([*cases(options), *COMPARED]):
        variables, steps = CASE.fullmatch(case).groups()[3:]
        shape = f"{variables} x {steps}"
        if shape not in built:
            built[shape] = _built(cls, int(variables), int(steps), options, is_dwt)
    return built


def _is_model(cls):
    return hasattr(cls, "forecast") and hasattr(cls, "forward")


def _built(cls, variables, steps, options, is_dwt):
    """The model, in the first precision that it runs in."""
    import torch

    given = options.get("precision", "auto")
    for name in ("bfloat16", "float32") if given == "auto" else (given,):
        torch.manual_seed(0)
        model = cls(_Configs(options, variables, steps, is_dwt)).to(getattr(torch, name))
        _rounds_no_further(model)
        try:
            with torch.no_grad():
                model.eval()(torch.randn(1, steps, variables), None, None, None)
            return model
        except RuntimeError:
            if name in ("float32", given):
                raise
    raise AssertionError("no precision")


def _rounds_no_further(model):
    """Have patches, which are rounded to 16 bits on the way there, embedded in the precision of the parameters."""
    layer = getattr(model, "patch_embedding", None)
    if layer is not None:
        layer.register_forward_pre_hook(lambda part, given: (given[0].to(next(part.parameters()).dtype), *given[1:]))


def double(subject):
    """All models in float64."""
    subject.double()


class _Configs(types.SimpleNamespace):
    """What is read of the command line; a switch that a fork has besides is off."""

    def __init__(self, options, variables, steps, is_dwt):
        width = WIDTHS[options.get("size", "tiny")][0]
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
    return float(CASE.fullmatch(case)[3]), "windows"


def inputs(case, seed):
    """``x_enc`` float32 (B, T, N): the variables of a window are of one kind, the windows of one kind after the other."""
    import torch

    part, mode, batch, variables, steps = CASE.fullmatch(case).groups()
    batch, variables, steps = int(batch), int(variables), int(steps)
    generator = torch.Generator().manual_seed(seed)
    windows = [_series(KINDS[(seed + i) % len(KINDS)], steps, variables, generator) for i in range(batch)]
    return {"x_enc": torch.stack(windows), "shape": f"{variables} x {steps}", "part": part, "mode": mode}


def _series(kind, steps, variables, generator):
    """(T, N) of one of the ``KINDS``."""
    import torch

    noise = torch.randn(steps, variables, generator=generator)
    time = torch.arange(steps, dtype=torch.float32)[:, None].expand(-1, variables)
    if kind == "walk":
        return noise.cumsum(0)
    if kind == "sine":
        return torch.sin(time * (0.1 + 0.05 * torch.arange(variables)))
    if kind == "step":
        return (time > steps // 3).to(torch.float32) * 2 - 1
    if kind in ("constant", "zero"):
        return torch.full((steps, variables), 3.0 if kind == "constant" else 0.0)
    if kind == "sparse":
        return noise * (noise > 1.5)
    if kind == "spikes":
        return noise * 0.01 + (time % 17 == 3) * 10.0
    if kind == "trend":
        return time * 0.05 + noise * 0.1
    return noise * {"tiny": 1e-6, "huge": 1e6}.get(kind, 1.0)


def on_device(inputs):
    """The windows."""
    return inputs["x_enc"]


class _Stop(Exception):
    """What was asked for is there."""


def run(subject, inputs):
    """The prompts, the tokens, or the forecasts with the tokens."""
    import torch

    model, part = subject[inputs["shape"]], inputs["part"]
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
        tokenizer.__class__ = type(cls.__name__, (cls,), {"__call__": called})
    hook = _words(model).register_forward_pre_hook(looked_up)
    try:
        yield
    finally:
        hook.remove()
        tokenizer.__class__ = cls


def _tokenizer(model):
    from transformers import PreTrainedTokenizerBase

    return next(value for value in vars(model).values() if isinstance(value, PreTrainedTokenizerBase))


def _language_model(model):
    from transformers import PreTrainedModel

    return next(part for part in model.modules() if isinstance(part, PreTrainedModel))


def _words(model):
    return _language_model(model).get_input_embeddings()


def module(subject):
    """All models."""
    return subject


def loss(outputs):
    """The forecasts against waves; nothing, where there are none."""
    import torch

    if "forecast" not in outputs:
        return torch.zeros(())
    made = outputs["forecast"].float()
    return ((made - torch.sin(torch.arange(made.numel()).view(made.shape) * 0.1)) ** 2).mean()


def stages(subject):
    """The prompts' statistics, the words' mixtures, the language model."""
    model = next(iter(subject.values()))
    language_model = _language_model(model)
    found = {"words": (type(model.mapping_layer), "forward"), "language model": (type(language_model), "forward")}
    for name, stage in (("calcute_lags", "lags"), ("calculate_lags", "lags")):
        if hasattr(type(model), name):
            found[stage] = (type(model), name)
    wavelets = [part for part in model.modules() if "DWT" in type(part).__name__]
    if wavelets:
        found["wavelets"] = (type(wavelets[0]), "forward")
        if hasattr(wavelets[0], "features_of_each"):
            found["wavelets of a batch"] = (type(wavelets[0]), "features_of_each")
    return found


def entry(subject):
    """The model."""
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
        for model in subject.values():
            tokenizer = _tokenizer(model)
            cls = type(tokenizer)
            tokenizer.__class__ = type(
                cls.__name__,
                (cls,),
                {
                    "__call__": lambda self, text, *more, cls=cls, **options: cls.__call__(
                        self, change(text), *more, **options
                    )
                },
            )

    return wrong


def _stale_words(subject):
    """The mixtures of words as they were at first, whatever has been learnt since."""
    for model in subject.values():
        layer, kept = model.mapping_layer, []

        def forward(x, layer=layer, kept=kept):
            kept.extend([] if kept else [type(layer).forward(layer, x).detach()])
            return kept[0]

        layer.forward = forward


WRONG = {
    "one prompt for the whole batch": _wrong_prompts(lambda prompts: [prompts[0]] * len(prompts)),
    "the neighbours' prompts": _wrong_prompts(lambda prompts: [*prompts[1:], prompts[0]]),
    "words that do not learn": _stale_words,
}
