"""Times of stages, as a timed program leaves them: a table in a log, or a JSON file; and where most of the time goes.

A stage's own time is that of none of its parts. Shares are of the sum of all own times, over all processes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, Optional

from apply_opt.errors import ApplyOptError

TITLES = ("性能分析统计", "Stages of the work")
ROW = re.compile(
    r"^(?P<name>\S.*?) +\| [^|:]+: +(?P<seconds>\d+\.\d+)s \| [^|:]+: +(?P<calls>\d+)(?:次|x) \| [^|:]+: +(?P<mean>\d+\.\d+)ms"
    r"(?: \| [^|:]+: +(?P<median>\d+\.\d+)ms \| p95: +(?P<p95>\d+\.\d+)ms \| [^|:]+: +(?P<share>\d+\.\d+)% \| (?P<where>.*))?\s*$"
)
LAP = re.compile(r"(?:Epoch|Step) (?P<number>\d+) (?:总耗时|total): +(?P<seconds>\d+\.\d+)s")
GPU = " [GPU]"


class StageTime(NamedTuple):
    """One stage: seconds of all calls, milliseconds of one, its share from 0 to 1, and in which processes it ran."""

    name: str
    seconds: float
    calls: int
    share: float
    median_ms: Optional[float] = None
    p95_ms: Optional[float] = None
    where: str = ""

    @property
    def mean_ms(self) -> float:
        """Milliseconds of a call."""
        return 1000 * self.seconds / self.calls if self.calls else 0.0


class Times(NamedTuple):
    """All stages, the longest first; on a GPU, by the name of the stage; seconds of each epoch."""

    stages: Sequence[StageTime]
    on_gpu: Mapping[str, StageTime]
    laps: Sequence[float]

    def seconds(self, names: Iterable[str]) -> float:
        """Of these stages together, as far as they are there; on a GPU, the longer of its time and the launch's."""
        wanted = set(names)
        return sum(
            max(s.seconds, self.on_gpu[s.name].seconds if s.name in self.on_gpu else 0.0)
            for s in self.stages
            if s.name in wanted
        )

    def share(self, names: Iterable[str]) -> float:
        """The share of these stages together."""
        wanted = set(names)
        return sum(s.share for s in self.stages if s.name in wanted)


class Bottleneck(NamedTuple):
    """What may hold a program up: its stages, the share that they usually have, what to do and which units to try."""

    title: str
    title_zh: str
    stages: Sequence[str]
    usual: tuple[float, float]
    advice: str
    advice_zh: str
    units: Sequence[str] = ()


def parse(data: bytes, name: str) -> Times:
    """The times in a log or a JSON file. Raises :class:`ApplyOptError` where there are none."""
    text = data.decode("utf-8", "replace")
    try:
        document = json.loads(text)
    except ValueError:
        document = None
    found = _of_document(document, name) if isinstance(document, dict) else _of_log(text)
    if found is None or not found.stages:
        raise ApplyOptError(
            f"{name} has no table of stages in it",
            "a log of a training with times (apply-opt act_timing; python imitate_episodes.py … 2>&1 | tee profile.log),\n"
            "or the JSON file that APPLY_OPT_TIMING_DIR=FOLDER keeps",
        )
    return found


def _of_log(text: str) -> Optional[Times]:
    """The last table of a log; its lines may have come through a terminal."""
    lines = re.split(r"\r?\n|\r", text)
    starts = [number for number, line in enumerate(lines) if any(title in line for title in TITLES)]
    if not starts:
        return None
    rows = []
    for line in lines[starts[-1] + 2 :]:
        if line.startswith("=" * 20):
            break
        match = ROW.match(line)
        rows += [match] if match else []
    own = {row["name"]: _seconds_own(row["name"], rows) for row in rows}
    every = sum(own.values()) or 1.0
    stages = [_of_row(row, own[row["name"]] / every) for row in rows]
    laps = [float(match["seconds"]) for match in map(LAP.search, lines) if match]
    return _sorted(stages, laps)


def _seconds_own(name: str, rows: Sequence[re.Match[str]]) -> float:
    """By its number, where a table does not say: ``03a`` is a part of ``03``, and a total is all of what is in it."""
    seconds = {row["name"]: float(row["seconds"]) for row in rows if not row["name"].endswith(GPU)}
    if "TOTAL" in name or name.endswith(GPU):
        return 0.0
    number = name.partition("_")[0]
    parts = [other for other in seconds if re.fullmatch(rf"{re.escape(number)}[a-z]", other.partition("_")[0])]
    return max(0.0, seconds[name] - sum(seconds[part] for part in parts))


def _of_row(row: re.Match[str], share: float) -> StageTime:
    said, median, p95 = row["share"], row["median"], row["p95"]
    return StageTime(
        row["name"],
        float(row["seconds"]),
        int(row["calls"]),
        float(said) / 100 if said else share,
        float(median) if median else None,
        float(p95) if p95 else None,
        row["where"] or "",
    )


def _of_document(document: Mapping[str, Any], name: str) -> Optional[Times]:
    try:
        if document.get("timing") != 1:
            return None
        cells, within = document["stages"], document["within"]
        own = {
            stage: max(0, c[64] - sum(cells[p][64] for p in cells if within.get(p) == stage))
            for stage, c in cells.items()
        }
        every = sum(own.values()) or 1
        stages = [_of_cells(stage, c, own[stage] / every) for stage, c in cells.items() if sum(c[:64])]
        gpu = [StageTime(stage + GPU, c[66] / 1e9, c[67], 0.0) for stage, c in cells.items() if c[67]]
        return _sorted([*stages, *gpu], [lap["seconds"] for lap in document["laps"]])
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        raise ApplyOptError(
            f"{name} is damaged, or of another version ({error!r})", "run the training again"
        ) from error


def _of_cells(name: str, cells: Sequence[int], share: float) -> StageTime:
    """From calls by the bits of their length, then nanoseconds; calls of the main process, and how many others have any."""
    where = ["main"] * bool(cells[68]) + [f"{cells[69]} workers"] * bool(cells[69])
    middle, most = (quantile_ms(cells[:64], part) for part in (0.5, 0.95))
    return StageTime(name, cells[64] / 1e9, sum(cells[:64]), share, middle, most, " + ".join(where))


def quantile_ms(counts: Sequence[int], part: float) -> float:
    """About how many milliseconds that part of the calls took at most, from how many had how many bits of nanoseconds."""
    left = part * sum(counts)
    for bits, count in enumerate(counts):
        if count and count >= left:
            return float(2 ** (bits - 1 + left / count) / 1e6)
        left -= count
    return 0.0


def _sorted(stages: Sequence[StageTime], laps: Sequence[float]) -> Times:
    rows = sorted((s for s in stages if not s.name.endswith(GPU)), key=lambda stage: -stage.seconds)
    return Times(rows, {s.name.removesuffix(GPU): s for s in stages if s.name.endswith(GPU)}, laps)


def parse_bottlenecks(tables: Sequence[Mapping[str, Any]]) -> list[Bottleneck]:
    """From a manifest's ``[[timing.bottlenecks]]``."""
    return [Bottleneck(**{**table, "usual": tuple(table["usual"])}) for table in tables]
