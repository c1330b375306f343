"""``dwt_batch_prompts``: only where a loop asks a generator about one sample of a batch after the other."""

from __future__ import annotations

import pytest
from cases import above, block, constant, lands, plan, refuses, replaced, with_class, with_tabs

from apply_opt.errors import Ambiguous, Conflict, NoSite, PartlyApplied
from apply_opt.model.plan import PLANNED

NAME = "dwt_batch_prompts"
HELPER = constant(NAME, "HELPER_TEXT")
CLASS = "class Model(torch.nn.Module):\n"
HEADER = "def forecast(self, x):"
BODY = """
B, N, T = x.shape
prompts = []
@for b in range(B):
    sample = x[b:b+1, :, :]
    features = self.generator(sample)
    text = self.generator.build_prompt_text(features, {"b": b})
    prompts.append(text)
return self.tokenizer(prompts)
"""
CALL = "batch_features = _features_of_each(self.generator, x)\n"
ASKED = "self.generator(sample)"


def module(body: str = BODY, header: str = HEADER) -> str:
    """A model whose method is this; ``@`` is where the call goes."""
    return with_class("import torch", CLASS, {header: body.replace("@", "")})


def changed(body: str = BODY, asked: str = ASKED, call: str = CALL, header: str = HEADER, number: str = "b") -> str:
    """The same with the change in it."""
    indent = body[: body.index("@")].rpartition("\n")[2]
    body = replaced(body, ("@", call + indent), (asked, f"batch_features.get({number}) or {asked}"))
    return above(with_class("import torch", CLASS, {header: body}), CLASS, HELPER)


ONLY_WITH_WAVELETS = replaced(BODY, ("B, N", "if self.wavelets:\n    other = x\nB, N"), ("x[b:b+1", "other[b:b+1"))
FORKS = [
    (BODY, ASKED),
    (replaced(BODY, (ASKED, "self.generator(x_enc=sample)")), "self.generator(x_enc=sample)"),
    (
        replaced(BODY, ("x[b:b+1, :, :]", "x[b]"), (ASKED, "self.generator(sample.unsqueeze(0))")),
        "self.generator(sample.unsqueeze(0))",
    ),
    (replaced(BODY, ("x[b:b+1, :, :]", "x[b:b+1].detach().clone()")), ASKED),
    (
        replaced(BODY, ("    features =", "    assert N > 0\n    if b % 10 == 0:\n        print(b)\n    features =")),
        ASKED,
    ),
    (replaced(BODY, ("    features =", "    if b:\n        continue\n    features =")), ASKED),
    (replaced(BODY, ("    prompts.append", "    text += '' if b else ' first'\n    prompts.append")), ASKED),
    (replaced(BODY, ("x[b:b+1, :, :]", "x[b:b + 1]")), ASKED),
    (replaced(BODY, ("x[b:b+1, :, :]", "x[b].unsqueeze(0)")), ASKED),
    (replaced(BODY, ("x[b:b+1, :, :]", "x[b][None]")), ASKED),
    (replaced(BODY, ("for b in range(B)", "for b, one in enumerate(self.order(x))")), ASKED),
    (replaced(BODY, ("x[b:b+1, :, :]", "x[b:1 + b].contiguous()")), ASKED),
    (replaced(BODY, ("    sample = x[b:b+1, :, :]\n", ""), ("(sample)", "(x[b:b+1])")), "self.generator(x[b:b+1])"),
    (
        replaced(BODY, ("for b in range(B)", "for b, one in enumerate(x)"), ("x[b:b+1, :, :]", "one.unsqueeze(0)")),
        ASKED,
    ),
    (replaced(BODY, ("range(B)", "range(0, B)")), ASKED),
    (replaced(BODY, ("range(B)", "range(0, x.shape[0], 1)")), ASKED),
    (
        replaced(
            BODY,
            (
                "    sample = x[b:b+1, :, :]\n",
                "    with torch.no_grad():\n        sample: torch.Tensor = x[b:b+1, :, :]\n",
            ),
            ("    features = self", "        features = self"),
        ),
        ASKED,
    ),
    (replaced(BODY, ("    prompts.append(text)", "    prompts += [text] * N\n    # all variables")), ASKED),
    (replaced(BODY, ("    text =", "    print(features)\n    text =")), ASKED),
    (replaced(BODY, ("    text =", "    seen = {}\n    seen[b] = features\n    text =")), ASKED),
    (
        replaced(BODY, ("self.generator(sample)", "self.generator(\n        sample,\n    )")),
        "self.generator(\n        sample,\n    )",
    ),
]


@pytest.mark.parametrize(("body", "asked"), FORKS)
def test_lands(body: str, asked: str) -> None:
    lands(NAME, module(body), changed(body, asked))


def test_lands_in_a_condition() -> None:
    body = """
    B, N, T = x.shape
    if self.use_wavelets and self.generator is not None:
        windows = x.clone()
    prompts = []
    if self.use_wavelets and self.generator is not None:
        # one after the other
        @for i in range(B):
            found: dict = self.generator(windows[i:i+1])
            prompts.append(self.generator.build_prompt_text(found, {}))
    else:
        for b in range(B):
            prompts.append(f"{x[b].min().item()}")
    return prompts
    """
    call = "batch_features = _features_of_each(self.generator, windows)\n"
    body = block(body)
    lands(NAME, module(body), changed(body, "self.generator(windows[i:i+1])", call, number="i"))


def test_lands_on_a_parameter_and_in_a_function() -> None:
    text = f"def write(self, x):\n{block(BODY.replace('@', ''), 4)}\n"
    outcome = plan(NAME, text)
    assert outcome.kind == PLANNED, outcome.message
    assert outcome.after.decode().startswith(HELPER.strip("\n"))


@pytest.mark.parametrize(
    "loop",
    [
        "for b in tqdm(range(B)):",
        "for b in trange(B, desc='prompts'):",
        "for b, sample in enumerate(tqdm(x, leave=False)):",
    ],
)
def test_lands_with_a_progress_bar(loop: str) -> None:
    body = replaced(BODY, ("@", ""), ("for b in range(B):", loop))
    if "sample" in loop:
        body = replaced(body, ("    sample = x[b:b+1, :, :]\n", ""), (ASKED, "self.generator(sample.unsqueeze(0))"))
    text = with_class("import torch\nfrom tqdm import tqdm, trange", CLASS, {HEADER: body})
    outcome = plan(NAME, text)
    assert outcome.kind == PLANNED, outcome.message
    refuses(NAME, text.replace("from tqdm import", "from other import"), Ambiguous, "cannot be told")


def test_lands_without_gradients() -> None:
    text = module().replace("    def forecast", "    @torch.no_grad()\n    def forecast")
    assert plan(NAME, text).kind == PLANNED


def test_lands_with_other_line_endings_and_tabs() -> None:
    lands(NAME, with_tabs(module()), with_tabs(changed()))


@pytest.mark.parametrize(
    "body",
    [
        replaced(BODY, ("self.generator(sample)", "self.generator.forward(sample)")),
        replaced(BODY, ("self.generator(sample)", "self.other(sample)")),
        replaced(BODY, ("build_prompt_text", "describe")),
        BODY.replace("self.generator", "self.generators[b % 2]"),
        BODY.replace("self.generator", "generator"),
        replaced(BODY, ("self.generator(sample)", "self.generator(sample, b)")),
        replaced(BODY, ("self.generator(sample)", "self.generator(sample, x=sample)")),
        replaced(BODY, ("self.generator(sample)", "self.generator(**sample)")),
        replaced(BODY, ("features = self.generator(sample)", "features = list(self.generator(sample))")),
        replaced(BODY, ("    features = self", "    if b:\n        features = self")),
        "# self.generator(x[b:b+1]) and build_prompt_text\nreturn 'build_prompt_text'@",
    ],
)
def test_nobody_is_asked(body: str) -> None:
    refuses(NAME, module(body), NoSite, "no loop asks a generator")


def test_the_whole_batch_on_purpose() -> None:
    body = "@features = self.generator(x)\nreturn self.generator.build_prompt_text(features, {})"
    refuses(NAME, module(body), NoSite, "no loop asks a generator")


@pytest.mark.parametrize(
    "body",
    [
        replaced(BODY, ("x[b:b+1, :, :]", "x[b:b+2]")),
        replaced(BODY, ("x[b:b+1, :, :]", "x[b:b+1, 0:1, :]")),
        replaced(BODY, ("x[b:b+1, :, :]", "x[b:b+1, :, 5:]")),
        replaced(BODY, ("x[b:b+1, :, :]", "x[b]")),
        replaced(BODY, ("x[b:b+1, :, :]", "x[0:1]")),
        replaced(BODY, ("x[b:b+1, :, :]", "x[b:b+1].diff()")),
        replaced(BODY, ("x[b:b+1, :, :]", "x[b:b+1] * 2")),
        replaced(BODY, ("x[b:b+1, :, :]", "x[b].unsqueeze(1)")),
        replaced(BODY, ("x[b:b+1, :, :]", "self.x[b:b+1]")),
        replaced(BODY, ("x[b:b+1, :, :]", "x[:, b:b+1]")),
        replaced(BODY, ("range(B)", "range(1, B)")),
        replaced(BODY, ("range(B)", "reversed(range(B))")),
        replaced(BODY, ("range(B)", "self.order")),
        replaced(
            BODY,
            ("for b in range(B)", "for b, one in enumerate(self.order(x))"),
            ("x[b:b+1, :, :]", "one.unsqueeze(0)"),
        ),
        replaced(BODY, ("    features =", "    sample = sample + 1\n    features =")),
        replaced(BODY, ("sample = x[b:b+1, :, :]", "sample = sample.contiguous()")),
        replaced(BODY, ("    sample = x[b:b+1, :, :]\n", ""), ("    text =", "    sample = x[b:b+1]\n    text =")),
        replaced(BODY, ("x[b:b+1, :, :]", "x[()]")),
        replaced(BODY, ("for b in range(B)", "for (b,) in enumerate(x)")),
        replaced(BODY, ("    sample = x[b:b+1, :, :]\n", "")),
    ],
)
def test_whether_that_is_one_sample_cannot_be_told(body: str) -> None:
    refuses(NAME, module(body), Ambiguous, "one sample of the batch")


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (replaced(BODY, ("    prompts.append", "    x = x + 1\n    prompts.append")), "changes in the loop"),
        (replaced(BODY, ("    sample =", "    b = b + 0\n    sample =")), "changes in the loop"),
        (replaced(BODY, ("    prompts.append", "    x[b] = 0\n    prompts.append")), "something else"),
        (replaced(BODY, ("    prompts.append", "    sample.mul_(2)\n    prompts.append")), "something else"),
        (replaced(BODY, ("    features =", "    self.clean(sample)\n    features =")), "something else"),
        (replaced(BODY, ("    prompts.append", "    view = x[b]\n    prompts.append")), "something else"),
        (replaced(BODY, ("    prompts.append", "    features.clear_()\n    prompts.append")), "in place"),
        (
            replaced(BODY, ("prompts = []", "prompts = []\nlimits = self.generator.thresholds")),
            "something else is done with",
        ),
        (replaced(BODY, ("prompts = []", "prompts = []\ngenerator = self.generator")), "something else is done with"),
        (
            replaced(BODY, ("prompts = []", "prompts = []\nother = self.generator if B else None")),
            "something else is done with",
        ),
        (
            replaced(BODY, ("prompts = []", "prompts = []\nother = self.generator or self.others")),
            "something else is done with",
        ),
        (replaced(BODY, ("    features =", "    self.adapt(b)\n    features =")), "something else is done with"),
        (replaced(BODY, ("    features =", "    self.jitter(other, b)\n    features =")), "in place"),
        (replaced(BODY, ("    features =", "    noise(other, b)\n    features =")), "in place"),
        (replaced(BODY, ("    features =", "    torch.mul(other, 2, out=other)\n    features =")), "in place"),
        (
            replaced(BODY, ("    features =", "    self.generator.level = b\n    features =")),
            "something else is done with",
        ),
        (
            replaced(BODY, ("    features =", "    self.generator = self.others[b]\n    features =")),
            "something else is done with",
        ),
        (replaced(BODY, ("    prompts.append", "    later = lambda: b\n    prompts.append")), "than can be told"),
        (
            replaced(
                BODY, ("    prompts.append", "    text += str([v for _, v in features.items()])\n    prompts.append")
            ),
            "last digit",
        ),
        (replaced(BODY, ("    prompts.append", "    self.last = features\n    prompts.append")), "last digit"),
        (replaced(BODY, ("    prompts.append", "    print(features['snr_db'])\n    prompts.append")), "last digit"),
        (replaced(BODY, ("prompts = []", "prompts = []\nself.generator.compile()")), "something else is done with"),
        (replaced(BODY, ("    prompts.append", "    features *= 2\n    prompts.append")), "in place"),
        (replaced(BODY, ("    features =", "    sample *= 2\n    features =")), "one sample of the batch"),
        (f"for epoch in range(3):\n{block(BODY.replace('@', ''), 4)}@", "in another one"),
        (replaced(BODY, ("x[b:b+1, :, :]", "other[b:b+1]")), "where other comes from"),
        (replaced(BODY, ("x[b:b+1, :, :]", "other[b:b+1]"), ("return", "other = x\nreturn")), "where other comes from"),
        (
            replaced(ONLY_WITH_WAVELETS, ("    sample", "    if not self.wavelets:\n        continue\n    sample")),
            "where other comes",
        ),
        (
            replaced(ONLY_WITH_WAVELETS, ("    sample", "    if not self.wavelets:\n        break\n    sample")),
            "where other comes",
        ),
    ],
)
def test_samples_that_may_be_others(body: str, reason: str) -> None:
    adapt = {"def adapt(self, b):": "self.generator.level = b"}
    jitter = {"def jitter(self, y, b):": "y[b] = y[b] / 2"}
    text = with_class("import torch", CLASS, {HEADER: body.replace("@", ""), **adapt, **jitter})
    refuses(NAME, f"{text}\n\ndef noise(y, b):\n    y[b].add_(1)\n", Ambiguous, reason)


def test_in_no_function() -> None:
    refuses(NAME, f"import torch\n{block(BODY.replace('@', '').replace('return ', ''))}\n", Ambiguous, "in no function")


def test_two_loops() -> None:
    twice = with_class(
        "import torch", CLASS, {f"def {n}(self, x):": BODY.replace("@", "") for n in ("forecast", "impute")}
    )
    refuses(NAME, twice, Ambiguous, "in 2 places")


def test_compiled() -> None:
    refuses(NAME, module(header="@torch.compile\n    def forecast(self, x):"), Conflict, "decorated")


def test_names_that_are_taken() -> None:
    refuses(
        NAME, module(replaced(BODY, ("prompts = []", "prompts = []\nbatch_features = 1"))), Conflict, "batch_features"
    )
    refuses(NAME, module() + "\n\n_features_of_each = 1\n", Conflict, "_features_of_each")


def test_by_half() -> None:
    half = changed().replace(CALL.strip(), "batch_features = {}")
    refuses(NAME, half, PartlyApplied, "_features_of_each is defined 1 times")


def test_a_generator_without_the_method() -> None:
    """Where the other half is not there, the loop asks as it did."""
    space: dict[str, object] = {}
    exec(HELPER, space)
    helper = space["_features_of_each"]
    assert callable(helper)
    assert helper(object(), [1]) == {}

    class Generator:
        """With the method."""

        def features_of_each(self, samples: list[int]) -> dict[int, int]:
            return dict(enumerate(samples))

    assert helper(Generator(), [7]) == {0: 7}
