"""What can go wrong, by who can mend it; every error is one sentence: what, where, found, mend."""

from dataclasses import dataclass


class MedloomError(Exception):
    """Base of every error that the command line turns into one line and an exit status."""

    exit_status = 2


class ConfigError(MedloomError):
    """The user's mistake in an option, a recipe or the environment (exit 2)."""


class SourceError(MedloomError):
    """A folder, file or service named by the user cannot be used as a whole (exit 2)."""


class FormatError(MedloomError):
    """Something on disk is not what its format says: a manifest, an index, a release (exit 2)."""


class GateError(MedloomError):
    """A build or release did not pass its gate, or kept nothing (exit 1)."""

    exit_status = 1


class RetryLater(MedloomError):
    """A fault that another run may not meet: a locked build, a full disk, a service down (exit 75)."""

    exit_status = 75


class BugError(MedloomError):
    """A reader, stage or task failed in a way that is no refusal: it names which and the key (exit 70)."""

    exit_status = 70


class Refused(Exception):
    """One input is refused, and counted, for a fixed reason; the run goes on.

    Args:
        reason: `short.fixed.reason`, the column by which refusals are counted ("volume.spacing").
        detail: what was found and how to mend it; names keys, never what identifies a person.
    """

    def __init__(self, reason: str, detail: str = ""):
        super().__init__(reason, detail)
        self.reason = reason
        self.detail = detail

    def __str__(self) -> str:
        return f"{self.reason}: {self.detail}" if self.detail else self.reason


@dataclass(frozen=True)
class Refusal:
    """One refused thing as a row of `quarantine`.

    Attributes:
        unit: the unit it belongs to, or the object's token when it never became one.
        key: the medium or example refused, "" when the whole unit is.
        source: name of the source.
        stage: which step refused it ("read", "resample", "vqa").
        reason, detail: as in `Refused`.
        source_bytes: size of what was refused, 0 when not known.
    """

    unit: str
    key: str
    source: str
    stage: str
    reason: str
    detail: str
    source_bytes: int = 0


class WrongBytes(Exception):
    """One medium's bytes are not what its index promises, do not decode, or cannot be had: another may be drawn."""
