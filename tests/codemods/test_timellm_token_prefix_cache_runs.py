"""The tokens of a batch whose common start is tokenized once are those of GPT-2's tokenizer, whatever the texts are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from cases import constant
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
tokenizers = pytest.importorskip("tokenizers")
SPACE: dict[str, Any] = {"torch": torch}
exec(constant("timellm_token_prefix_cache", "HELPER_TEXT"), SPACE)
input_ids = SPACE["_input_ids"]
LEARNT = "<|start_prompt|>Forecast the next 96 steps from 512; values -0.123456789, it's upward  \n down, [0, 1]<|<end_prompt>|>"
END = "<|endoftext|>"
CLASSES = sorted({transformers.GPT2Tokenizer, transformers.GPT2TokenizerFast}, key=lambda cls: cls.__name__)
classes = pytest.mark.parametrize("cls", CLASSES)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tokenizer that has learnt a few words."""
    path = tmp_path_factory.mktemp("gpt2")
    learnt = tokenizers.ByteLevelBPETokenizer()
    learnt.train_from_iterator([LEARNT] * 9, vocab_size=420, min_frequency=1, special_tokens=[END], show_progress=False)
    learnt.save_model(str(path))
    marks = {f"{name}_token": END for name in ("bos", "eos", "unk")}
    (path / "tokenizer_config.json").write_text(json.dumps({"model_max_length": 64, **marks}), encoding="utf-8")
    return path


def loaded(folder: Path, cls: Any = CLASSES[0], **more: Any) -> Any:
    """The tokenizer, as Time-LLM has it."""
    return cls.from_pretrained(folder, **{"pad_token": END, **more})


def as_ever(tokenizer: Any, prompts: Any, max_length: int = 2048) -> Any:
    """The tokens as they are without the change."""
    options = {"return_tensors": "pt", "padding": True, "truncation": True, "max_length": max_length}
    return tokenizer(prompts, **options).input_ids


class Work:
    """How many letters a tokenizer gets."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, cls: Any) -> None:
        self.letters: list[int] = []
        original = cls.__call__

        def noted(tokenizer: Any, texts: Any, *more: Any, **options: Any) -> Any:
            self.letters.append(sum(map(len, texts)))
            return original(tokenizer, texts, *more, **options)

        monkeypatch.setattr(cls, "__call__", noted)


def same(tokenizer: Any, prompts: Any, max_length: int = 2048) -> None:
    """The tokens are the same, and so is their type; the prompts stay as they are."""
    kept = list(prompts)
    made, before = input_ids(tokenizer, prompts, max_length), as_ever(tokenizer, prompts, max_length)
    assert torch.equal(made, before), (made, before)
    assert (made.dtype, made.device, made.is_contiguous()) == (before.dtype, before.device, True)
    assert prompts == kept


START = LEARNT[:80]
PROMPTS = [
    f"{START} from {low} to {high}, going up{END_OF}"
    for low, high, END_OF in [(1, 2.5, "."), (-3, 40, "!!"), (0, 0, "")]
]


@classes
def test_prompts(cls: Any, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = loaded(folder, cls)
    same(tokenizer, PROMPTS)
    work = Work(monkeypatch, cls)
    input_ids(tokenizer, PROMPTS, 2048)
    as_ever(tokenizer, PROMPTS)
    assert len(work.letters) == 2 and work.letters[0] < 0.7 * work.letters[1]


PIECES = st.sampled_from(
    [
        *(" ", "  ", "\n", "\t ", "\x1c", "\u00a0", "\u2003", "\u200b", "\r\n", "\x00", "\x7f"),
        *("'", "'s", " 's", "'re", "n't", "a", "Forecast", " steps", "-0.5", "12", ",", "_", "~", "!"),
        *("É", "e\u0301", "½", "٣", "中文", "😀", "👩\u200d👩"),
        *("<|", "|>", END, "<|end", "oftext|>", "<|x|>", "<|start_prompt|>"),
    ]
)
TEXTS = st.lists(PIECES, max_size=12).map("".join) | st.text(max_size=12)


@classes
@settings(deadline=None, max_examples=400, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(start=TEXTS, ends=st.lists(TEXTS, min_size=2, max_size=5), max_length=st.integers(1, 30))
@example(start="a b", ends=[" c", " d"], max_length=30)
@example(start="a b ", ends=["'s c", " d"], max_length=30)
@example(start="word " + END, ends=[" x", "y"], max_length=30)
@example(start="word <|end", ends=["oftext|> x", "y"], max_length=30)
@example(start="a  ", ends=["", " "], max_length=30)
def test_any_texts(cls: Any, folder: Path, start: str, ends: list[str], max_length: int) -> None:
    tokenizer = _KEPT.setdefault(cls, loaded(folder, cls))
    same(tokenizer, [f"{start}{end}" for end in ends], max_length)


@classes
@settings(deadline=None, max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(start=TEXTS, ends=st.lists(TEXTS, min_size=2, max_size=4))
def test_any_texts_with_added_tokens(cls: Any, folder: Path, start: str, ends: list[str]) -> None:
    key = (cls, "added")
    if key not in _KEPT:
        _KEPT[key] = loaded(folder, cls)
        _KEPT[key].add_tokens(["<|x|>", "steps", "é", "12"])
        _KEPT[key].add_special_tokens({"additional_special_tokens": ["<|start_prompt|>"]})
    same(_KEPT[key], [f"Forecast the next {start}{end}" for end in ends])


_KEPT: dict[Any, Any] = {}


# Where a tokenizer is called as ever


def is_split(tokenizer: Any, prompts: Any = PROMPTS) -> bool:
    """Whether the common start is taken off; the tokens are the same in any case."""
    seen: list[Any] = []
    original = SPACE["_ids_behind_start"]
    SPACE["_ids_behind_start"] = lambda *given: seen.append(1) or original(*given)
    try:
        same(tokenizer, prompts)
    finally:
        SPACE["_ids_behind_start"] = original
    return bool(seen)


@classes
def test_what_is_changed_later(cls: Any, folder: Path) -> None:
    """Nothing is kept from one call to the next: whatever is changed counts from then on."""
    tokenizer = loaded(folder, cls)
    assert is_split(tokenizer)
    tokenizer.padding_side = "left"
    assert not is_split(tokenizer)
    tokenizer.padding_side, tokenizer.truncation_side = "right", "left"
    assert not is_split(tokenizer)
    tokenizer.truncation_side = "right"
    tokenizer.add_tokens(["Forecast"])
    assert is_split(tokenizer)
    tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    assert is_split(tokenizer)
    assert int(input_ids(tokenizer, PROMPTS, 2048)[2, -1]) == tokenizer.pad_token_id
    tokenizer.add_tokens(["next 96"])
    assert not is_split(tokenizer)


@classes
@pytest.mark.parametrize("options", [{"lstrip": True}, {"rstrip": True}])
def test_tokens_that_take_spaces(cls: Any, folder: Path, options: dict[str, bool]) -> None:
    tokenizer = loaded(folder, cls)
    tokenizer.add_tokens([tokenizers.AddedToken("from", **options)])
    assert not is_split(tokenizer)


@classes
def test_spaces_ahead_and_marks(cls: Any, folder: Path) -> None:
    """The parts do not fit together, or what they make is right."""
    for options in ({"add_prefix_space": True}, {"add_bos_token": True}):
        tokenizer = loaded(folder, cls, **options)
        same(tokenizer, PROMPTS)
        same(tokenizer, [f" {prompt}" for prompt in PROMPTS])


def test_a_mark_at_the_end(folder: Path) -> None:
    """It stays where a prompt is cut."""
    tokenizer = loaded(folder, transformers.GPT2TokenizerFast)
    rules = tokenizers.processors.TemplateProcessing(single=f"$A {END}", special_tokens=[(END, tokenizer.eos_token_id)])
    tokenizer.backend_tokenizer.post_processor = rules
    for max_length in (2048, 40, 9, 1):
        same(tokenizer, PROMPTS, max_length)


@classes
def test_subclasses_and_others(cls: Any, folder: Path) -> None:
    tokenizer = loaded(folder, cls)
    tokenizer.__class__ = type("GPT2Tokenizer", (cls,), {})
    assert not is_split(tokenizer)
    other = transformers.PreTrainedTokenizerFast(tokenizer_object=_backend(folder), pad_token=END)
    assert not is_split(other)


def _backend(folder: Path) -> Any:
    return tokenizers.ByteLevelBPETokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"))._tokenizer


def test_other_rules(folder: Path) -> None:
    """Somebody has put something else into the tokenizer."""
    cls = transformers.GPT2TokenizerFast
    changes = {
        "pre_tokenizer": tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        "normalizer": tokenizers.normalizers.Lowercase(),
    }
    for name, value in changes.items():
        tokenizer = loaded(folder, cls)
        setattr(tokenizer.backend_tokenizer, name, value)
        assert not is_split(tokenizer), name
    tokenizer = loaded(folder, cls)
    parts = [tokenizers.pre_tokenizers.Digits(), changes["pre_tokenizer"]]
    tokenizer.backend_tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Sequence(parts)
    assert not is_split(tokenizer)


ODD: dict[str, Any] = {
    "one": PROMPTS[:1],
    "a tuple": tuple(PROMPTS),
    "a text": PROMPTS[0],
    "nothing alike": ["a b c", "d e f", "g"],
    "one letter": ["a b", "a c"],
    "too little alike": ["a b" + "c" * 40, "a d" + "e" * 50],
    "an empty one": [*PROMPTS, ""],
}


@pytest.mark.parametrize("name", ODD)
def test_nothing_to_take_off(name: str, folder: Path) -> None:
    tokenizer, prompts = loaded(folder), ODD[name]
    assert SPACE["_end_of_start"](prompts) == 0
    assert torch.equal(input_ids(tokenizer, prompts, 2048), as_ever(tokenizer, prompts))


def test_all_the_same(folder: Path) -> None:
    assert is_split(loaded(folder), PROMPTS[:1] * 7)


BAD: dict[str, Any] = {"numbers": [*PROMPTS, 3], "nothing": [], "none": None, "pairs": [("a", "b"), ("a", "c")]}


@pytest.mark.parametrize("name", BAD)
def test_the_same_exceptions(name: str, folder: Path) -> None:
    tokenizer, raised = loaded(folder), []
    for run in (as_ever, input_ids):
        try:
            raised.append(run(tokenizer, BAD[name], 2048).tolist())
        except Exception as error:
            raised.append((type(error), str(error)))
    assert raised[0] == raised[1]


@classes
def test_no_padding_token(cls: Any, folder: Path) -> None:
    tokenizer = loaded(folder, cls)
    tokenizer.pad_token = None
    for run in (as_ever, input_ids):
        with pytest.raises(ValueError, match="padding token"):
            run(tokenizer, PROMPTS, 2048)


@classes
def test_nothing_is_said_of_long_texts(cls: Any, folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The original cuts them, and says nothing."""
    tokenizer = loaded(folder, cls)
    long = [prompt + " values" * 90 for prompt in PROMPTS] * 9
    assert is_split(tokenizer, long)
    same(tokenizer, long, 70)
    assert not caplog.records
