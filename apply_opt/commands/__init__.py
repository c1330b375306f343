"""One module per command: ``add_arguments(parser)`` and ``run(arguments) -> Result``. Importing one imports no heavy library."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any, NamedTuple

DONE = 0
APPLIED, EDITED, PARTLY, GONE = "applied", "applied, and edited since", "partly applied", "taken out by hand"
"""What may have become of an optimization that the ledger says was applied."""


class Result(NamedTuple):
    """What a command has to say: the exit code, lines for people (``(style, text)``), a document for scripts."""

    lines: Sequence[tuple[str, str]]
    document: dict[str, Any]
    code: int = DONE
    raw: bytes = b""
    """Bytes for standard output as they are (a patch); ``lines`` then go to standard error."""


def add_checkout_arguments(parser: argparse.ArgumentParser) -> None:
    """The options that say which checkout is meant, and ``--json``."""
    parser.add_argument("--repo", metavar="DIR", default=".", help="the checkout, or a folder in it (default: here)")
    parser.add_argument(
        "--file",
        metavar="PATH",
        action="append",
        default=[],
        help="the file to change, where it cannot be found or is not the only one; PART=PATH for another part of the "
        "target than its main file",
    )
    add_json_argument(parser)


def add_json_argument(parser: argparse.ArgumentParser) -> None:
    """``--json``."""
    parser.add_argument("--json", action="store_true", help="print one JSON object")
