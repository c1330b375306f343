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
NUMBER = r"\d{1,12}\.\d{1,6}"
ROW = re.compile(
    rf"^(?P<name>[^\s|\x00-\x1f\x7f](?:[^|\x00-\x1f\x7f]{{0,99}}[^\s|\x00-\x1f\x7f])?) {{1,60}}\| [^|:]{{1,20}}: +(?P<seconds>{NUMBER})s"
    rf" \| [^|:]{{1,20}}: +(?P<calls>\d{{1,15}})(?:次|x) \| [^|:]{{1,20}}: +(?P<mean>{NUMBER})ms"
    rf"(?: \| [^|:]{{1,20}}: +(?P<median>{NUMBER})ms \| p95: +(?P<p95>{NUMBER})ms"
    rf" \| [^|:]{{1,20}}: +(?P<share>\d{{1,3}}\.\d{{1,3}})% \| (?P<where>[^|\x00-\x1f]{{0,60}}?)"
    rf"(?: \| GPU: (?P<gpu>{NUMBER})s (?P<gpu_mean>{NUMBER})ms)?)?\s{{0,9}}$"
)
LAP = re.compile(rf"(?:Epoch|Step) (?P<number>\d{{1,12}}) (?:总耗时|total): +(?P<seconds>{NUMBER})s")
MOST = 2**63


class StageTime(NamedTuple):
    """One stage: seconds of all calls, milliseconds of one, its share from 0 to 1, and in which processes it ran.

    A log has its seconds to a hundredth, and its milliseconds of one call to a hundredth, too: neither is made of the other.
    """

    name: str
    seconds: float
    calls: int
    share: float
    median_ms: Optional[float] = None
    p95_ms: Optional[float] = None
    where: str = ""
    gpu_seconds: Optional[float] = None
    gpu_calls: int = 0
    mean_ms: float = 0.0


class Times(NamedTuple):
    """All stages, the longest first; seconds of each epoch, or group of steps."""

    stages: Sequence[StageTime]
    laps: Sequence[float]

    def seconds(self, names: Iterable[str]) -> float:
        """Of these stages together, as far as they are there; on a GPU, the longer of its time and the launch's."""
        wanted = set(names)
        return sum(max(s.seconds, s.gpu_seconds or 0.0) for s in self.stages if s.name in wanted)

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
    data: bool = False
    """Whether it is the data loader's: of no matter where nobody waits for data."""


class Waiting(NamedTuple):
    """The stage in which a training waits for data, and the others of its steps."""

    stage: str
    steps: Sequence[str]


def parse(data: bytes, name: str) -> Times:
    """The times in a log or a JSON file. Raises :class:`ApplyOptError` where there are none."""
    text = data.decode("utf-8", "replace")
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        document = None
    found = _of_document(document, name) if isinstance(document, dict) else _of_log(text)
    if found is None or not found.stages:
        raise ApplyOptError(
            f"{name} has no table of stages in it",
            "a log of a program with times (apply-opt list names those; python TRAIN.py … 2>&1 | tee profile.log),\n"
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
    return _sorted(stages, _laps(lines[: starts[-1]]))


def _laps(lines: Sequence[str]) -> list[float]:
    """Seconds of each epoch up to a table, which counts no later one; in a log of several runs, those of the last."""
    laps: list[float] = []
    last = -1
    for match in filter(None, map(LAP.search, lines)):
        if int(match["number"]) <= last:
            laps.clear()
        last = int(match["number"])
        laps.append(float(match["seconds"]))
    return laps


def _seconds_own(name: str, rows: Sequence[re.Match[str]]) -> float:
    """By its number, where a table does not say: ``03a`` is a part of ``03``, and a total is all of what is in it."""
    if "TOTAL" in name:
        return 0.0
    seconds, number = {row["name"]: float(row["seconds"]) for row in rows}, name.partition("_")[0]
    parts = [other for other in seconds if re.fullmatch(rf"{re.escape(number)}[a-z]", other.partition("_")[0])]
    return max(0.0, seconds[name] - sum(seconds[part] for part in parts))


def _of_row(row: re.Match[str], share: float) -> StageTime:
    median, p95, gpu = (float(row[name]) if row[name] else None for name in ("median", "p95", "gpu"))
    said = float(row["share"]) / 100 if row["share"] else share
    calls, where = int(row["calls"]), row["where"] or ""
    return StageTime(
        row["name"],
        float(row["seconds"]),
        calls,
        said,
        median,
        p95,
        where,
        gpu,
        calls if row["gpu"] else 0,
        float(row["mean"]),
    )


def _of_document(document: Mapping[str, Any], name: str) -> Optional[Times]:
    try:
        if document.get("timing") != 1:
            return None
        cells = {_name(stage): [_count(cell) for cell in cells] for stage, cells in document["stages"].items()}
        within = document["within"]
        own = {
            stage: max(0, c[64] - sum(cells[p][64] for p in cells if within.get(p) == stage))
            for stage, c in cells.items()
        }
        every = sum(own.values()) or 1
        stages = [_of_cells(stage, c, own[stage] / every) for stage, c in cells.items() if sum(c[:64])]
        return _sorted(stages, [_count(int(lap["seconds"] * 1e9)) / 1e9 for lap in document["laps"]])
    except (KeyError, IndexError, TypeError, AttributeError, ValueError, OverflowError) as error:
        raise ApplyOptError(
            f"{name} is damaged, or of another version ({error!r})", "run the training again"
        ) from error


def _count(value: Any) -> int:
    """Nanoseconds or calls. Raises :class:`ValueError` for what can be neither."""
    if not isinstance(value, int) or not 0 <= value < MOST:
        raise ValueError(f"{str(value)[:40]} is no count")
    return value


def _name(value: str) -> str:
    """A stage's name. Raises :class:`ValueError` for one with characters that steer a terminal."""
    if not value.isprintable() or len(value) > 100:
        raise ValueError(f"{value[:40]!r} is no name")
    return value


def _of_cells(name: str, cells: Sequence[int], share: float) -> StageTime:
    """From calls by the bits of their length, then nanoseconds; calls of the main process, and how many others have any."""
    where = ["main"] * bool(cells[68]) + [f"{cells[69]} workers"] * bool(cells[69])
    middle, most = (min(quantile_ms(cells[:64], part), cells[65] / 1e6) for part in (0.5, 0.95))
    gpu = cells[66] / 1e9 if cells[67] else None
    calls, seconds = sum(cells[:64]), cells[64] / 1e9
    return StageTime(
        name, seconds, calls, share, middle, most, " + ".join(where), gpu, cells[67], 1000 * seconds / calls
    )


def quantile_ms(counts: Sequence[int], part: float) -> float:
    """About how many milliseconds that part of the calls took at most, from how many had how many bits of nanoseconds."""
    left = part * sum(counts)
    for bits, count in enumerate(counts):
        if count and count >= left:
            return float(2 ** (bits - 1 + left / count) / 1e6)
        left -= count
    return 0.0


def _sorted(stages: Sequence[StageTime], laps: Sequence[float]) -> Times:
    return Times(sorted(stages, key=lambda stage: -stage.seconds), laps)


def parse_bottlenecks(table: Mapping[str, Any]) -> list[Bottleneck]:
    """From a manifest's ``[[timing.bottlenecks]]``."""
    return [Bottleneck(**{**each, "usual": tuple(each["usual"])}) for each in table.get("bottlenecks", ())]


def parse_waiting(table: Mapping[str, Any]) -> Optional[Waiting]:
    """From a manifest's ``[timing.waiting]``, where it has one."""
    return Waiting(**table["waiting"]) if "waiting" in table else None
