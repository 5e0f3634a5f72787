"""What `consilia report` does beside writing a page: follow a running search, and open a browser."""

import time
import webbrowser
from pathlib import Path

from consilia import Study
from consilia.report.console import make_console


def follow_report(study: Study, out: Path | None, *, pictures: bool, every: float, show: bool) -> Path:
    """Write the page every so many seconds until no process works in the study, and once more at the end.

    Pages that are followed have no pictures, and a browser loads them again by itself; the last one does not.

    Args:
        study: The study.
        out: As of `Study.report`.
        pictures: Of the last page.
        every: Seconds.
        show: Open a browser once the first page is there.

    Returns:
        The page.
    """
    is_first = True
    try:
        while study.board().is_held:
            page = study.report(out, pictures=False, refresh=max(1, round(every)))
            if is_first:
                make_console().print(f"following {page}; Ctrl-C ends it, and leaves the search alone", soft_wrap=True)
                if show:
                    open_page(page)
            is_first = False
            time.sleep(every)
    except KeyboardInterrupt:
        study.report(out, pictures=False)
        raise
    page = study.report(out, pictures=pictures)
    if show and is_first:
        open_page(page)
    return page


def open_page(page: Path) -> None:
    """Show a page in a browser, or say that there is none."""
    if not webbrowser.open(page.absolute().as_uri()):
        make_console(stderr=True).print(
            f"There is no browser here to show it in. Open {page} yourself.", soft_wrap=True
        )
