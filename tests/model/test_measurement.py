"""The statistics of ``bench``, on machines that are made up: how often it is wrong, and how small an effect it sees."""

from __future__ import annotations

import math
import random
from collections import Counter

import pytest
from simulation import NOISES, Noise, autocorrelated, drift, measured, normal, throttled

from apply_opt.commands.proof_options import DEFAULT, QUICK, RIGOROUS, Effort
from apply_opt.model.measurement import (
    AFTER,
    BEFORE,
    FASTER,
    INCONCLUSIVE,
    NO_DIFFERENCE,
    SLOWER,
    Block,
    against,
    judge,
    noise_floor,
    schedule,
    shuffled,
    speedup,
)

PRESETS = {"quick": QUICK, "default": DEFAULT, "rigorous": RIGOROUS}
TIMES = 400


def words(noise: Noise, effort: Effort, slowdown: float, times: int = TIMES) -> Counter[str]:
    found = (measured(noise, effort.blocks, effort.same, 7919 * i, slowdown) for i in range(times))
    return Counter(verdict.word for verdict, _ in found)


class TestSchedule:
    """The order of the samples."""

    @pytest.mark.parametrize("blocks", [1, 2, 3, 6, 12])
    def test_each_block_is_one_of_two_and_both_are_as_frequent(self, blocks: int) -> None:
        for seed in range(50):
            counts = Counter(schedule(blocks, seed))
            assert set(counts) <= {(BEFORE, AFTER, AFTER, BEFORE), (AFTER, BEFORE, BEFORE, AFTER)}
            assert sum(counts.values()) == blocks
            assert max(counts.values()) - min(counts.get(order, 0) for order in counts) <= 1 or len(counts) == 1
            assert max(counts.values()) == math.ceil(blocks / 2)

    def test_is_random_and_repeatable(self) -> None:
        orders = {tuple(schedule(6, seed)) for seed in range(200)}
        assert len(orders) == 20, "all ways to arrange three and three"
        assert schedule(6, 5) == schedule(6, 5)
        assert len({schedule(1, seed)[0] for seed in range(20)}) == 2
        assert sorted(shuffled(range(9), 1)) == list(range(9)) != shuffled(range(9), 1)

    def test_an_even_drift_favours_neither(self) -> None:
        """Without noise, a machine that gets slower evenly gives exactly 1."""
        verdict, _ = measured(lambda generator, count: [0.01 * i for i in range(count)], 6, 3, seed=1)
        assert verdict.speedup.estimate == pytest.approx(1, abs=1e-12)
        assert verdict.noise == pytest.approx(1, abs=1e-12)


class TestInterval:
    """Student's t over blocks."""

    def test_known_figures(self) -> None:
        blocks = [Block((math.exp(x), math.exp(x)), (1.0, 1.0)) for x in (0.1, 0.2, 0.3)]
        found = speedup(blocks)
        half = 4.302652729911275 * 0.1 / math.sqrt(3)
        assert found.estimate == pytest.approx(math.exp(0.2))
        assert (found.low, found.high) == pytest.approx((math.exp(0.2 - half), math.exp(0.2 + half)))
        assert speedup(blocks, 0.99).low < found.low

    def test_ratio_is_of_before_to_after(self) -> None:
        assert speedup([Block((2.0, 2.0), (1.0, 1.0))] * 2).estimate == pytest.approx(2)

    def test_one_block_has_none(self) -> None:
        with pytest.raises(ValueError, match="at least two"):
            speedup([Block((1.0, 1.0), (1.0, 1.0))])

    @pytest.mark.parametrize("effort", PRESETS.values(), ids=PRESETS)
    @pytest.mark.parametrize("noise", NOISES, ids=lambda noise: noise.__name__)
    def test_coverage(self, noise: Noise, effort: Effort) -> None:
        """The true ratio is in about 95 % of the intervals; in no fewer than 90 %, whatever the noise."""
        inside = 0
        for i in range(TIMES):
            found = measured(noise, effort.blocks, effort.same, 104729 * i, 0.2)[0].speedup
            inside += found.low <= 1 / 1.2 <= found.high
        assert (0.92 if noise is normal else 0.9) * TIMES <= inside


class TestSameCode:
    """A/A: what is said where nothing has changed."""

    @pytest.mark.parametrize("effort", PRESETS.values(), ids=PRESETS)
    @pytest.mark.parametrize("noise", NOISES, ids=lambda noise: noise.__name__)
    def test_rarely_a_difference(self, noise: Noise, effort: Effort) -> None:
        found = words(noise, effort, 0.0)
        assert found[FASTER] + found[SLOWER] <= 0.05 * TIMES

    def test_noise_floor_of_nothing(self) -> None:
        assert noise_floor([], 6) == 0

    def test_noise_floor_holds_an_effect_back(self) -> None:
        """Three blocks that happen to agree are no proof on a machine that gives 10 % for nothing."""
        alike = [Block((1.05, 1.05), (1.0, 1.0)), Block((1.051, 1.05), (1.0, 1.0)), Block((1.05, 1.05), (1.001, 1.0))]
        assert judge(alike).word == FASTER
        noisy = [Block((1.1, 1.1), (1.0, 1.0)), Block((1.0, 1.0), (1.1, 1.1))]
        assert judge(alike, noisy).word == INCONCLUSIVE
        assert judge(alike, noisy).noise > 1.1

    def test_quiet_machine_says_so(self) -> None:
        def quiet(generator: object, count: int) -> list[float]:
            return normal(generator, count, 0.002)  # type: ignore[arg-type]

        assert words(quiet, DEFAULT, 0.0, 100)[NO_DIFFERENCE] > 95


class TestSlowdown:
    """A planted 3 %."""

    def test_is_seen_where_a_process_varies_by_one_percent(self) -> None:
        for noise in (normal, drift, autocorrelated):
            found = words(noise, DEFAULT, 0.03)
            assert found[SLOWER] >= 0.9 * TIMES, noise.__name__
        assert words(normal, RIGOROUS, 0.03)[SLOWER] >= 0.99 * TIMES
        assert words(normal, QUICK, 0.03)[SLOWER] >= 0.4 * TIMES, "a first look sees half of them"

    @pytest.mark.parametrize("effort", PRESETS.values(), ids=PRESETS)
    @pytest.mark.parametrize("noise", NOISES, ids=lambda noise: noise.__name__)
    def test_is_never_a_gain(self, noise: Noise, effort: Effort) -> None:
        found = words(noise, effort, 0.03, 150)
        assert found[FASTER] <= 1

    def test_smallest_effect_that_could_have_been_seen(self) -> None:
        """Where the verdict is that nothing was seen, an effect of the size that it names would have been."""
        for seed in range(40):
            verdict, _ = measured(throttled, 6, 3, 31 * seed)
            if verdict.word == INCONCLUSIVE:
                again = [measured(throttled, 6, 3, 31 * other, verdict.smallest**2 - 1)[0].word for other in range(20)]
                assert again.count(SLOWER) >= 10
                break
        else:
            pytest.fail("no case was inconclusive")


class TestVerdict:
    """The words at their borders."""

    @pytest.mark.parametrize(
        ("ratios", "word"),
        [
            ([1.2, 1.21, 1.19, 1.2], FASTER),
            ([0.8, 0.81, 0.79, 0.8], SLOWER),
            ([1.001, 0.999, 1.0, 1.0005], NO_DIFFERENCE),
            ([1.003, 1.0031, 1.0029, 1.003], FASTER),
            ([1.3, 0.8, 1.1, 0.9], INCONCLUSIVE),
        ],
    )
    def test_words(self, ratios: list[float], word: str) -> None:
        assert judge([Block((ratio, ratio), (1.0, 1.0)) for ratio in ratios]).word == word


class TestAgainst:
    """Several programs against one, in rounds."""

    NAMES = ("original", "original again", "a", "b", "c", "fast")

    def rounds(self, seed: int, count: int = 3, loud: float = 0.04) -> list[dict[str, float]]:
        """On a machine that is another one in each round; ``loud`` is the noise of the program c, that of the others 4 %."""
        generator = random.Random(seed)
        found = []
        for _ in range(count):
            machine = math.exp(generator.gauss(0, 0.3))
            noises = {**dict.fromkeys(self.NAMES, 0.04), "c": loud}
            own = {name: machine * math.exp(generator.gauss(0, noise)) for name, noise in noises.items()}
            found.append({**own, "fast": own["fast"] * 0.8})
        return found

    def test_is_rarely_wrong_and_sees_what_is_there(self) -> None:
        wrong = seen = covered = 0
        for seed in range(TIMES):
            found = against(self.rounds(seed), self.NAMES[:2])
            wrong += any(found[name].word in (FASTER, SLOWER) for name in "abc")
            seen += found["fast"].word == FASTER
            covered += found["fast"].speedup.low <= 1.25 <= found["fast"].speedup.high
        assert wrong / TIMES < 0.06, "all intervals together at 95 %"
        assert seen / TIMES > 0.95 and covered / TIMES > 0.97

    @pytest.mark.parametrize("count", [3, 6])
    def test_a_program_that_is_noisier_than_the_others(self, count: int) -> None:
        found = [against(self.rounds(seed, count, loud=0.4), self.NAMES[:2])["c"].word for seed in range(TIMES)]
        assert sum(word in (FASTER, SLOWER) for word in found) / TIMES < 0.08

    def test_without_noise(self) -> None:
        found = against([{"o": 2.0, "x": 1.0, "y": 4.0, "z": 2.0}, {"o": 4.0, "x": 2.0, "y": 8.0, "z": 4.0}], ["o"])
        assert {name: verdict.word for name, verdict in found.items()} == {"x": FASTER, "y": SLOWER, "z": NO_DIFFERENCE}
        assert found["x"].speedup.estimate == pytest.approx(2) and found["y"].speedup.high == pytest.approx(0.5)

    def test_some_of_the_programs(self) -> None:
        """Fewer intervals hold together at a level with less room; the noise is known from all programs, as before."""
        rounds = self.rounds(0, 6)
        every, some = against(rounds, ["a"]), against(rounds, ["a"], names=["fast"])
        assert set(every) == {*self.NAMES} - {"a"} and set(some) == {"fast"}
        assert some["fast"].speedup.estimate == every["fast"].speedup.estimate
        assert 1 < some["fast"].noise < every["fast"].noise

    def test_what_cannot_be_told(self) -> None:
        noisy = [{"o": 1.0, "x": 1.3, "y": 0.7}, {"o": 1.0, "x": 0.7, "y": 1.3}]
        assert {verdict.word for verdict in against(noisy, ["o"]).values()} == {INCONCLUSIVE}
        with pytest.raises(ValueError, match="two rounds"):
            against(noisy[:1], ["o"])
