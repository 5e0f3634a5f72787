"""Who watches a study."""

from typing import Protocol

from consilia.tune.contract import SearchObserver
from consilia.tune.refit_controller import RefitView


class StudyView(SearchObserver, RefitView, Protocol):
    """Told of everything that a study does."""

    def preparing(self, done: int, total: int) -> None:
        """Images decoded so far."""

    def connected(self, *, dashboard: str, token_file: str) -> None:
        """Ray is there, and can be watched at this address with this file's token."""

    def noted(self, text: str) -> None:
        """Something happened that people should know."""
