"""Parameters of an optimization: declared in its manifest, given with ``--set key=value``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Union

from apply_opt.errors import UsageError

Value = Union[str, int, bool]


class Parameter(NamedTuple):
    """One ``[parameters.<name>]`` table.

    ``type`` is ``str``, ``int``, ``bool`` or ``choice``; an ``int`` may also admit the words in ``choices``
    (``auto``), and has a ``minimum``. ``tune`` are the values that ``apply-opt tune`` tries beside the default; in place of
    a value, ``cores`` stands for 1, 2, 4 and so on up to the usable cores.
    """

    name: str
    type: str
    default: Value
    help: str = ""
    help_zh: str = ""
    choices: Sequence[str] = ()
    minimum: int = 0
    tune: Sequence[str] = ()

    def candidates(self, cores: int) -> list[str]:
        """The values to try on a machine with this many usable cores, as they are typed; the default is the first."""
        powers = [str(2**n) for n in range(cores.bit_length())]
        found = [text for word in self.tune for text in ([*powers, str(cores)] if word == "cores" else [word])]
        return list(dict.fromkeys([spelled(self.default), *found]))

    def parse(self, text: str) -> Value:
        """``text`` as this parameter's value. Raises :class:`UsageError`."""
        if text in self.choices:
            return text
        if self.type == "bool" and text.lower() in ("true", "false"):
            return text.lower() == "true"
        if self.type == "int" and text.isascii() and text.isdigit() and len(text) < 10 and int(text) >= self.minimum:
            return int(text)
        if self.type == "str" and text.strip() and text.isprintable():
            return text
        raise UsageError(
            f"{self.name}={text}: {self.name} takes {self.admits()}", f"--set {self.name}={spelled(self.default)}"
        )

    def admits(self) -> str:
        """What the parameter takes, in words."""
        words = {
            "bool": "true or false",
            "int": f"a whole number from {self.minimum}",
            "str": "a text without control characters",
        }
        return " or ".join([*filter(None, [words.get(self.type)]), *self.choices])


def spelled(value: object) -> str:
    """A value as it is typed."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def resolve(parameters: Sequence[Parameter], given: Mapping[str, str], owner: str) -> dict[str, Value]:
    """The value of each of ``parameters``: as ``given`` on the command line, else its default."""
    known = {p.name: p for p in parameters}
    for key in given:
        if key not in known:
            import difflib

            close = difflib.get_close_matches(key, known, 1)
            hint = f"did you mean {close[0]}? " if close else ""
            raise UsageError(
                f"{owner} has no parameter called {key}",
                f"{hint}what can be set: {', '.join(known) or 'nothing'} (apply-opt show NAME)",
            )
    return {p.name: p.parse(given[p.name]) if p.name in given else p.default for p in parameters}


def parse_parameter(name: str, table: Mapping[str, Any]) -> Parameter:
    """A :class:`Parameter` from its manifest table. Raises :class:`ValueError` where its default is not one of its values."""
    parameter = Parameter(
        name=name,
        type=table["type"],
        default=table["default"],
        help=table.get("help", ""),
        help_zh=table.get("help_zh", ""),
        choices=texts(table, "choices", ()),
        minimum=table.get("minimum", 0),
        tune=texts(table, "tune", ()),
    )
    kinds: dict[str, type] = {"str": str, "int": int, "bool": bool, "choice": type(None)}
    if parameter.default not in parameter.choices and type(parameter.default) is not kinds[parameter.type]:
        raise ValueError(f"the default of {name}, {parameter.default!r}: it takes {parameter.admits()}")
    for text in parameter.candidates(1):
        try:
            parameter.parse(text)
        except UsageError as error:
            raise ValueError(f"tune of {name}, {text}: it takes {parameter.admits()}") from error
    return parameter


def texts(table: Mapping[str, Any], key: str, default: Sequence[str] | None = None) -> tuple[str, ...]:
    """A list of texts in a manifest. Raises :class:`TypeError` where it is anything else."""
    value = table[key] if default is None else table.get(key, default)
    if not isinstance(value, (list, tuple)) or not all(isinstance(item, str) for item in value):
        raise TypeError(f"{key}: a list of texts is wanted, not {value!r}")
    return tuple(value)
