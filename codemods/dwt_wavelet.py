"""Decompose series by a shorter wavelet before they are put into words: other prompts, a little sooner."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from apply_opt.model.codemod import Site
from apply_opt.model.parameters import Value
from apply_opt.model.source import Edit, Source

from ._wavelet_generator import given, site


def find(source: Source, parameters: Mapping[str, Value]) -> list[Site]:
    """The site ``generator``: the wavelet that it is given."""
    return [site(source, "wavelet", f'"{parameters["wavelet"]}"')]


def edit(source: Source, parameters: Mapping[str, Value], sites: Sequence[Site]) -> list[Edit]:
    """The wavelet by its name."""
    return [given(source, "wavelet", f'"{parameters["wavelet"]}"')]
