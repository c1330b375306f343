"""The page: one HTML text that needs nothing else. Jinja (https://jinja.palletsprojects.com) escapes whatever comes from records."""

from __future__ import annotations

import jinja2
from markupsafe import Markup

from apply_opt.page.facts import Group, Report
from apply_opt.page.words import Say, speaker

GENERATOR = "apply-opt report"
"""What the head of a page of ours names as its maker."""


def page(report: Report, groups: list[Group]) -> str:
    """The page of a report."""
    loader = jinja2.PackageLoader("apply_opt.page")
    environment = jinja2.Environment(
        loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    say = speaker(report.language)
    return environment.get_template("report.html").render(
        groups=groups,
        title=title(groups, say),
        style=Markup(environment.get_template("style.css").render()),
        generator=GENERATOR,
        **report._asdict(),
        say=say,
    )


def title(groups: list[Group], say: Say) -> str:
    """The conclusion, where there is one set; else how many sets there are."""
    if len(groups) == 1:
        names = say("list").join(groups[0].names)
        return say("headline", names=names, text=groups[0].headline)
    return say("headline", names=say("page title"), text=say("sets", count=len(groups)))
