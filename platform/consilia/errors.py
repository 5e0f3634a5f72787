"""Errors for people: what must hold, what was found, what to do next."""


class ConsiliaError(Exception):
    """Base of every error that consilia raises on purpose; the command line prints it without a traceback."""

    exit_code = 1


class UserError(ConsiliaError):
    """Something the user wrote or pointed at cannot be used as it is."""

    exit_code = 2


class PlanError(UserError):
    """A study file, card, search space, recipe or profile is wrong; names the file and the key."""


class DataError(UserError):
    """Images, labels or patients cannot be used as given; names the file, the row or the class."""


class ReaderError(DataError):
    """One image cannot be decoded; names its file. `prepare` quarantines it, `predict` reports it."""


class StudyError(UserError):
    """A study folder does not fit what is asked of it."""


class BundleError(UserError):
    """An ensemble bundle is damaged, foreign or too new; it is refused rather than trusted."""


class RunError(ConsiliaError):
    """The work was started and failed: no trial finished, say, or the disk is full."""


class NodeFault(RunError):  # noqa: N818 # a state of the node
    """This node cannot train, whatever the trial: it does not read the images, say, or its GPU does not answer."""


class ClusterError(RunError):
    """A Ray cluster cannot be reached, refuses us, or can never hold the study."""
