"""The one family of expected errors. ``cli.main`` catches it in one place; anything else is a bug (exit code 70)."""


class ApplyOptError(Exception):
    """Something that can be expected to go wrong.

    ``message`` names the cause, ``next_step`` is what to type or do next, ``exit_code`` is the process's.
    """

    exit_code = 1
    kind = "error"

    def __init__(self, message: str, next_step: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.next_step = next_step


class UsageError(ApplyOptError):
    """The command line's words are off: an unknown name, an unknown parameter, a value of the wrong type."""

    exit_code = 2
    kind = "usage"


class Refused(ApplyOptError):
    """Nothing was written, because it is not certain where or whether the change belongs."""

    exit_code = 3
    kind = "refused"


class NotRecognised(Refused):
    """The folder, or the file in it, is not one that a target describes."""

    kind = "not_recognised"


class NoSite(Refused):
    """The code to change is not there, in this form."""

    kind = "no_site"


class Ambiguous(Refused):
    """There is more than one place, or the place is only half of what it should be."""

    kind = "ambiguous"


class PartlyApplied(Ambiguous):
    """Half of an optimization's change is there."""

    kind = "partly_applied"


class Conflict(Refused):
    """Something else, of the user's or of another optimization, stands in the way."""

    kind = "conflict"


class OtherValues(Conflict):
    """The optimization is there, with other values of its parameters."""

    kind = "other_values"


class InvalidResult(Refused):
    """A codemod's result breaks a rule, so it is not written. With a known fork in hand that is a bug of the codemod."""

    kind = "invalid_result"

    def __init__(self, why: str) -> None:
        super().__init__(
            f"the change did not pass its own check ({why}); nothing was written",
            "please report it with the file; until then make the edit by hand: apply-opt show NAME",
        )


class LedgerError(ApplyOptError):
    """The ledger in ``.apply-opt/`` cannot be trusted."""

    kind = "ledger"
