"""Decompose series into fewer bands before they are put into words: other prompts, sooner.

Each level is one convolution of the ptwt library, and one more band to look at.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from apply_opt.model.codemod import Site
from apply_opt.model.parameters import Value
from apply_opt.model.source import Edit, Source

from ._wavelet_generator import given, site


def find(source: Source, parameters: Mapping[str, Value]) -> list[Site]:
    """The site ``generator``: the level that it is given."""
    return [site(source, "level", str(parameters["level"]))]


def edit(source: Source, parameters: Mapping[str, Value], sites: Sequence[Site]) -> list[Edit]:
    """The level as a number."""
    return [given(source, "level", str(parameters["level"]))]
