"""The rules of the safety classes: what they let pass, and that nothing else does."""

from __future__ import annotations

from typing import Any

import pytest

from apply_opt.model import parity
from apply_opt.model.parity import Observations, agreement, broken, close, differences, exact, no_further, rule_of

torch = pytest.importorskip("torch")
RUN = "3 s | seed 0 | "
DTYPES = [
    "float32",
    "float64",
    "float16",
    "bfloat16",
    "complex64",
    "complex128",
    "bool",
    "int8",
    "int16",
    "int32",
    "int64",
    "uint8",
]


def under(rule: parity.Rule, before: Any, after: Any, what: str = "output y") -> bool:
    """Whether the rule lets ``after`` pass."""
    return not differences({RUN + what: before}, {RUN + what: after}, rule)


EXACT = rule_of("exact")
TOLERANT = rule_of("tolerance")


class TestExact:
    """Bit for bit."""

    @pytest.mark.parametrize("dtype", DTYPES)
    @pytest.mark.parametrize("shape", [(), (0,), (1,), (3, 2)])
    def test_same(self, dtype: str, shape: tuple[int, ...]) -> None:
        value = torch.ones(shape, dtype=getattr(torch, dtype))
        assert exact(value, value.clone()) is None

    @pytest.mark.parametrize("dtype", DTYPES)
    @pytest.mark.parametrize("shape", [(), (1,), (3, 2)])
    def test_one_value_differs(self, dtype: str, shape: tuple[int, ...]) -> None:
        value = torch.ones(shape, dtype=getattr(torch, dtype))
        other = value.clone()
        other.reshape(-1)[-1] = 0
        assert "1 of" in str(exact(value, other))

    def test_last_bit(self) -> None:
        value = torch.rand(5) + 1
        assert not under(EXACT, value, torch.nextafter(value, torch.tensor(9.0)))
        assert not under(EXACT, 1.0, 1.0000000000000002)

    def test_sign_of_zero(self) -> None:
        assert not under(EXACT, torch.zeros(2), torch.tensor([0.0, -0.0]))
        assert not under(EXACT, 0.0, -0.0)
        assert not under(EXACT, [0.0, 1.0], [-0.0, 1.0])

    @pytest.mark.parametrize(
        ("one", "other"),
        [
            (1, True), (1, 1.0), (1, "1"), (None, 0), (None, "none"), (0, False), ([1], [True]), ([1, 2], [1, 2.0]),
            ([1], 1), ([], None), ("a", "b"), ([1, 2], [1]), ([1, 2], [2, 1]), ("", None),
        ],
    )  # fmt: skip
    def test_plain_values(self, one: Any, other: Any) -> None:
        for rule in (EXACT, TOLERANT, rule_of("inference_only"), rule_of("instrument"), rule_of("lossy")):
            assert not under(rule, one, other) and not under(rule, other, one)
            assert under(rule, one, one)

    def test_shape_and_type(self) -> None:
        value = torch.ones(4)
        for other in (value.double(), value.half(), value.int(), value[None], value[:3], 1.0, [1.0] * 4, None):
            for rule in (EXACT, TOLERANT):
                assert not under(rule, value, other) and not under(rule, other, value)


class TestTolerance:
    """Close by torch's own measure, or no further from the truth than the original."""

    @pytest.mark.parametrize(
        ("dtype", "inside", "outside"),
        [
            ("float32", 1e-6, 2e-5), ("float64", 5e-8, 1e-6), ("float16", 5e-4, 5e-3), ("bfloat16", 8e-3, 5e-2),
            ("complex64", 1e-6, 2e-5),
        ],
    )  # fmt: skip
    def test_close(self, dtype: str, inside: float, outside: float) -> None:
        value = torch.full((8,), 2.0, dtype=torch.float64)
        kind = getattr(torch, dtype)
        assert close(value.to(kind), (value * (1 + inside)).to(kind)) is None
        assert "not close" in str(close(value.to(kind), (value * (1 + outside)).to(kind)))

    def test_zeros_are_not_close_to_something(self) -> None:
        assert not under(TOLERANT, torch.full((4,), 1e-3), torch.zeros(4))

    def test_small_outputs_have_to_be_closer(self) -> None:
        value = torch.full((4,), 8e-6)
        assert close(value, torch.zeros(4)) is None, "what torch's defaults say"
        for what in ("output y", "inference output y"):
            assert not under(TOLERANT, value, torch.zeros(4), what)
            assert under(TOLERANT, value, value * (1 + 1e-6), what)
        assert under(TOLERANT, value * 1e-3, value * 1e-3 * -1, "gradient y"), "rounding errors and no more"

    def test_what_is_discrete_is_to_be_the_same(self) -> None:
        tokens = torch.arange(100)
        other = tokens.clone()
        other[50] += 1
        assert not under(TOLERANT, tokens, other)
        assert not under(TOLERANT, [1, 2, 3], [1, 2, 4])
        assert not under(TOLERANT, "a b", "a  b")
        assert under(TOLERANT, [1.0, 2.0], [1.0, 2.0 + 1e-9])
        assert not under(TOLERANT, [1.0, 2.0], [1.0, 2.01])
        assert not under(TOLERANT, [1.0], [1.0, 2.0])

    def referee(self, dtype: str, ours: float, theirs: float, scale: float = 1.0) -> bool:
        """Whether a result passes that is ``ours`` from a float64 run of which the original is ``theirs``."""
        truth = torch.ones(1000, dtype=torch.float64) * scale
        sign = torch.where(torch.arange(1000) % 2 == 0, 1.0, -1.0).double()
        before, after = ((truth + sign * scale * error).to(getattr(torch, dtype)) for error in (theirs, ours))
        rule = rule_of("tolerance", {}, {RUN + "output y": truth})
        return under(rule, before, after)

    def test_no_further_from_the_truth(self) -> None:
        assert self.referee("float32", 9e-5, 5e-5), "1.8 times as far"
        assert not self.referee("float32", 1.2e-4, 5e-5), "2.4 times as far"
        assert self.referee("float32", 1e-6, 9e-4), "nearer than the original"
        assert self.referee("float16", 2.4e-2, 1e-2), "2.4 times as far, in half precision"
        assert not self.referee("float16", 3.8e-2, 1e-2)

    @pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
    def test_a_referee_of_another_program_is_none(self, scale: float) -> None:
        assert not self.referee("float32", 0.3, 0.2, scale), "a float64 run that is 20 % off would excuse anything"

    def test_referee_with_nan_or_another_shape(self) -> None:
        before, after = torch.ones(4), torch.ones(4) * 1.001
        for truth in (
            torch.full((4,), float("nan"), dtype=torch.float64),
            torch.ones(5, dtype=torch.float64),
            1.0,
            None,
        ):
            assert not under(rule_of("tolerance", {}, {RUN + "output y": truth}), before, after)
        assert no_further(before, after, torch.ones(4, dtype=torch.float64)) is not None


class TestInferenceOnly:
    """Rounding is allowed with gradients off; the run that trains is the original."""

    TRAINED = (RUN + "gradient weight", RUN + "training exception")

    def test_program_that_is_trained(self) -> None:
        rule = rule_of("inference_only", dict.fromkeys(self.TRAINED))
        value, near = torch.ones(3), torch.ones(3) * (1 + 1e-6)
        assert under(rule, value, near, "inference output y")
        for what in ("output y", "gradient weight", "parameter weight after 5 steps", "buffer mean", "input x"):
            assert not under(rule, value, near, what), what
            assert under(rule, value, value, what)
        assert not under(rule, value, value * 1.1, "inference output y")

    def test_program_that_is_not(self) -> None:
        rule = rule_of("inference_only", {RUN + "output y": None})
        assert under(rule, torch.ones(3), torch.ones(3) * (1 + 1e-6))
        assert not under(rule, [1, 2], [1, 3])

    def test_referee(self) -> None:
        truth = torch.ones(3, dtype=torch.float64)
        rule = rule_of("inference_only", {}, {RUN + "output y": truth})
        assert under(rule, torch.ones(3) * (1 + 1e-4), torch.ones(3) * (1 - 1e-4))
        trained = rule_of("inference_only", dict.fromkeys(self.TRAINED), {RUN + "output y": truth})
        assert not under(trained, torch.ones(3) * (1 + 1e-4), torch.ones(3) * (1 - 1e-4))


class TestBroken:
    """What no rule can pass, on either side."""

    @pytest.mark.parametrize("safety", ["instrument", "exact", "tolerance", "inference_only", "lossy"])
    @pytest.mark.parametrize(
        "value",
        [
            float("nan"), float("inf"), [1.0, float("nan")], {"unsupported": "a sparse tensor"}, torch.tensor(float("nan")),
            torch.tensor([1.0, float("inf")]), torch.tensor([1.0, float("-inf")], dtype=torch.bfloat16),
            torch.tensor([complex(0, float("nan"))]), torch.tensor([float("nan")], dtype=torch.float16),
        ],
        ids=str,
    )  # fmt: skip
    def test_never_passes(self, safety: str, value: Any) -> None:
        assert not under(rule_of(safety), value, value)
        assert broken({RUN + "output y": value})
        assert broken({RUN + "gradient y": value})

    def test_infinity_in_what_is_kept(self) -> None:
        mask = torch.tensor([0.0, float("-inf")])
        for what in ("buffer mask", "inference buffer mask", "input mask"):
            assert under(EXACT, mask, mask.clone(), what)
            assert not under(EXACT, mask, torch.tensor([0.0, float("nan")]), what)

    def test_exceptions(self) -> None:
        for what in ("exception", "inference exception", "training exception"):
            assert broken({RUN + what: "builtins.ValueError: x"})
            assert not broken({RUN + what: "none"})
        name = "bad input | nothing | exception"
        assert not broken({name: "builtins.ValueError: x"})
        assert differences({name: "builtins.ValueError: x"}, {name: "builtins.ValueError: y"}, EXACT)
        assert differences({name: "builtins.ValueError: x"}, {name: "builtins.TypeError: x"}, EXACT)

    def test_unsupported_says_what(self) -> None:
        (found,) = broken({RUN + "output y": {"unsupported": "a tensor with the layout torch.sparse_coo"}})
        assert found.how == "a tensor with the layout torch.sparse_coo, which cannot be compared"


class TestMissing:
    """A value that is on one side only."""

    @pytest.mark.parametrize("safety", ["instrument", "exact", "tolerance", "inference_only", "lossy"])
    def test_is_a_difference(self, safety: str) -> None:
        one: Observations = {RUN + "output a": 1, RUN + "output b": 2}
        other: Observations = {RUN + "output a": 1}
        assert [d.how for d in differences(one, other, rule_of(safety))] == ["missing after"]
        assert [d.how for d in differences(other, one, rule_of(safety))] == ["missing before"]

    def test_runs_without_outputs(self) -> None:
        fine = {RUN + "exception": "none", RUN + "output a": 1, "3 s | seed 1 | exception": "none"}
        assert not parity.has_outputs(fine)
        assert parity.has_outputs({**fine, "3 s | seed 1 | output a": 1, "bad input | x | exception": "none"})
        assert not parity.has_outputs({RUN + "exception": "none", RUN + "kind of output a": "NoneType"})
        assert not parity.has_outputs({})


class TestAgreement:
    """The figures for what is not promised to be the same."""

    def test_share_of_tokens(self) -> None:
        before = {RUN + "output t": [1, 2, 3, 4], RUN + "output u": torch.tensor([1, 2]), RUN + "input t": [1]}
        after = {RUN + "output t": [1, 9, 3], RUN + "output u": torch.tensor([1, 3]), RUN + "input t": [2]}
        found = agreement(before, after)
        assert (found.same, found.total, found.share) == (3, 6, 0.5)

    def test_error_of_tensors(self) -> None:
        before = {RUN + "output a": torch.tensor([4.0, 0.0]), RUN + "output b": torch.zeros(0)}
        after = {RUN + "output a": torch.tensor([4.0, 1.0]), RUN + "output b": torch.zeros(0)}
        assert agreement(before, after) == (0, 0, 0.25)
        assert agreement(before, after).share == 1

    def test_other_shape_and_other_kind(self) -> None:
        before = {RUN + "output a": torch.ones(4), RUN + "output b": 1, RUN + "output c": "x"}
        after = {RUN + "output a": torch.ones(3), RUN + "output b": True, RUN + "output c": "x"}
        assert agreement(before, after) == (1, 6, 0.0)


def test_a_single_value_in_the_memory_of_others() -> None:
    """Its stride is that of what it was taken from; its bits can be looked at all the same."""
    wide = torch.arange(64.0).reshape(1, 2, 32)
    one, other = wide[:, 1:, :1], wide[:, :1, :1]
    assert one.is_contiguous() and one.stride(-2) == 32
    turned = one.transpose(1, 2)
    assert parity.exact(turned, turned.clone()) is None
    assert parity.exact(turned, other.transpose(1, 2)) is not None
