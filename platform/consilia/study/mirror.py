"""A study at a URI: its folder on this machine is pulled before work, and pushed while there is work and at its end.

What lies at the URI can be gone on with at any moment, whatever upload was the last one. It is a state that the folder
itself might have been left in by `kill -9`, because uploads go in an order:

1. search.json, which says that the search is over, is deleted first where it no longer holds, and written last.
2. Of trials that the journal at the URI knows: their files, a fold's result after its other files, then trial.json. A
   fold whose weights are gone, since its trial has ended, is finished there only once trial.json says that it has.
3. The journal, up to the first line that ends a trial whose trial.json is not there yet: it knows each trial before
   there are files of it, and says of none that it has ended before its trial.json does.
4. Of trials that this has made known: the same as 2. Then the rest of the journal, with the next pass.
5. Checkpoints, which only save time; bundles, ensemble.json after the files that it lists; what else there is.
6. Deletions, of what was gone before any trial.json was read: it says why.
"""

import json
import logging
import threading
import time
import uuid
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from consilia.config.study_folder import StudyFolder
from consilia.errors import RunError, StudyError
from consilia.files import write_json
from consilia.study.folder import hold_study, is_held
from consilia.study.lease import LASTS_SECONDS, Heart, Lease, LeaseLostError, beating, read_claim
from consilia.study.lease import NAME as LEASE
from consilia.study.plan import study_name
from consilia.study.remote import Remote, RemoteError, Stamp, is_hidden
from consilia.tune.journal import cut_journal, whole_lines

logger = logging.getLogger(__name__)

PUSH_SECONDS = 10.0
_STATE = ".mirror.json"
_JOURNAL, _RECORD, _CHECKPOINT, _WEIGHTS = "optuna.journal", "trial.json", "checkpoint.pt", "weights.safetensors"
_RESULT = "result.json"
_ENDED = ("finished", "stopped", "failed")  # states of a trial
_DOCUMENT = "ensemble.json"  # of a bundle; what lacks it is none
_DERIVED = ("ray/", "tensorboard/")  # Ray's own, and curves that each fold's history.parquet holds too
_TOGETHER = 8  # downloads at a time
_ATTEMPTS, _ATTEMPT_SECONDS = 4, 5.0  # of the last push
_RESTARTS = 20  # of a pass whose files went away under it


@dataclass(slots=True)
class _Known:
    """A file whose content lies at the URI."""

    local: Stamp | None  # its version here; None: whatever lies there came from elsewhere
    remote: Stamp | None = None  # its version there, where that is known for certain


@dataclass(slots=True)
class _State:
    """What a copy of the study knows of the URI; lies beside it as .mirror.json."""

    copy: str = ""  # its name
    is_whole: bool = False  # it was pulled whole, or made here: if it held the lease last, it is the newest copy
    files: dict[str, _Known] = field(default_factory=dict)


class _MovedError(Exception):
    """A file went away between two looks, because its trial went on: the pass begins anew."""


class Mirror:
    """A study's folder on this machine, and the same study at its URI.

    Args:
        folder: On this machine.
        remote: At the URI.
        clock: As of Lease; tests pass their own, as of the next two.
        wait: As of Lease.
        every: Seconds between two pushes.
    """

    def __init__(
        self,
        folder: StudyFolder,
        remote: Remote,
        *,
        clock: Callable[[], float] = time.monotonic,
        wait: Callable[[float], None] = time.sleep,
        every: float = PUSH_SECONDS,
    ) -> None:
        self._folder = folder
        self._remote = remote
        self._clock = clock
        self._wait = wait
        self._every = every
        self._state = _State()
        self._changed = False  # the state, since it was written
        self._lease: Lease | None = None

    @contextmanager
    def at_work(self, noted: Callable[[str], None]) -> Iterator[None]:
        """Hold the study at its URI for a block: pulled before it, pushed every few seconds and at its end.

        The folder on this machine must be held by `hold_study`.

        Args:
            noted: Told what people should know.

        Raises:
            StudyError: Another driver is at work, or has taken over; or the URI cannot be used.
            RunError: The last push failed; the folder on this machine holds everything.
        """
        self._check_not_foreign()
        self._state = self._read_state()
        self._state.copy = self._state.copy or uuid.uuid4().hex
        self._write_state()
        self._lease = Lease(self._remote, self._state.copy, clock=self._clock, wait=self._wait)
        last_copy = self._lease.take(noted)
        with beating(self._lease) as heart:
            self._begin(last_copy)
            with self._pushing(noted, heart):
                yield

    def refresh(self, *, bundle: str = "") -> None:
        """Pull what a reader needs, unless a driver on this machine is at work, or has left what is newer.

        Weights and checkpoints of trials stay where they are, and so do the networks of all bundles but one.

        Args:
            bundle: Name of its recipe.
        """
        if is_held(self._folder):
            return
        self._folder.root.mkdir(parents=True, exist_ok=True)
        with hold_study(self._folder):
            self._state = self._read_state()
            claim = read_claim(self._remote)
            if claim is None or claim.copy != self._state.copy or not self._state.is_whole:
                self._pull(self._listing(), lambda name: _is_light(name, bundle))

    def exists(self) -> bool:
        """Say whether there is such a study at the URI."""
        self._remote.check()
        return self._remote.stamp(self._folder.plan.name) is not None

    def is_held(self) -> bool:
        """Say whether a driver seems to be at work, for people: this machine's clock is compared with the store's."""
        claim, stamp = read_claim(self._remote), self._remote.stamp(LEASE)
        return claim is not None and claim.held and stamp is not None and time.time() - stamp[1] / 1e9 < LASTS_SECONDS

    def push(self) -> None:
        """Bring the URI to what the folder is now.

        Raises:
            LeaseLostError: Another driver has taken the study over.
            RemoteError: An upload failed; what lies there can be gone on with.
        """
        if not self._folder.plan.exists():
            return self._push_removal()
        for _ in range(_RESTARTS):
            try:
                while not self._pass():
                    pass
            except _MovedError as error:
                logger.debug("a pass begins anew: %s has moved", error)
            else:
                return self._write_state() if self._changed else None
        raise RemoteError(f"{self._folder.root} changes faster than it can be pushed to {self._remote.shown}.")

    def _check_not_foreign(self) -> None:
        self._remote.check()
        listing = self._listing()
        if listing and self._folder.plan.name not in listing:
            raise StudyError(
                f"{self._remote.shown} exists but does not hold a study.yaml, so it is not a study of consilia.\n"
                "Choose another name in the study file, or another --studies."
            )

    def _begin(self, last_copy: str) -> None:
        """Make this machine's copy the newest one, now that the lease is held."""
        listing = self._listing()
        if last_copy == self._state.copy and self._state.is_whole:  # nobody has worked elsewhere since
            files = self._state.files
            self._state.files = {name: files.get(name, _Known(None)) for name in listing}
        else:
            self._pull(listing, lambda name: True)
            self._state.is_whole = True
            self._write_state()

    @contextmanager
    def _pushing(self, noted: Callable[[str], None], heart: Heart) -> Iterator[None]:
        ended = threading.Event()
        thread = threading.Thread(target=self._keep_pushing, args=(ended, noted, heart), daemon=True)
        thread.start()
        failure: BaseException | None = None
        try:
            yield
        except BaseException as error:
            failure = error
            raise
        finally:
            ended.set()
            thread.join()
            if heart.lost is None:
                self._finish(noted, failure)

    def _keep_pushing(self, ended: threading.Event, noted: Callable[[str], None], heart: Heart) -> None:
        is_told = False
        while not ended.wait(self._every):
            try:
                self.push()
                is_told = False
            except LeaseLostError as error:
                return heart.lose(error)
            except (RemoteError, OSError) as error:
                if not is_told:
                    noted(f"what is new cannot be pushed, and is tried again while the search goes on: {error}")
                is_told = True
        return None

    def _finish(self, noted: Callable[[str], None], failure: BaseException | None) -> None:
        """Push for the last time; `failure` is what ended the block."""
        noted(f"pushing what is new to {self._remote.shown}")
        try:
            with ThreadPoolExecutor(1) as apart:  # where no Ctrl-C breaks an upload in two
                apart.submit(self._push_last).result()
        except LeaseLostError:
            raise
        except (RemoteError, OSError) as error:
            message = (
                f"What was done last could not be pushed: {error}\nIt lies in {self._folder.root}: the same command on "
                "this machine pushes it."
            )
            if failure is None:
                raise RunError(message) from error
            noted(message)

    def _push_last(self) -> None:
        for attempt in range(_ATTEMPTS):
            try:
                self.push()
                break
            except RemoteError:
                if attempt + 1 == _ATTEMPTS:
                    raise
                self._wait(_ATTEMPT_SECONDS * 2**attempt)
        for name, stamp in self._listing().items():  # so that this machine need not pull them one day
            if name in self._state.files:
                self._state.files[name].remote = stamp
        self._write_state()

    def _push_removal(self) -> None:
        """Delete at the URI a study that was given up before its first trial."""
        if self._pushed_numbers():
            raise RemoteError(f"{self._folder.root} is gone, and with it what was not pushed to {self._remote.shown}.")
        for name in sorted(self._state.files, key=lambda name: name == self._folder.plan.name):
            self._delete(name)

    def _pass(self) -> bool:
        """Push once, in the order above; say whether that was all."""
        folder = self._folder
        gone = {name for name in self._state.files if not (folder.root / name).exists()}  # before trials are looked at
        end, journal = _content(folder.search_end), _content(folder.journal)
        numbers = _recorded(f"trials/{path.parent.name}/{_RECORD}" for path in folder.trials.glob(f"*/{_RECORD}"))
        records = {number: _content(folder.trial(number).record) for number in numbers}
        files = dict(_files(folder.root))
        old = self._pushed_numbers() & numbers
        extent = None if journal is None else cut_journal(journal, before_end_of=numbers - old)
        new = numbers - old if extent is None else (numbers - old) & extent.drawn

        if end is None:
            self._delete(folder.search_end.name)
        first = (folder.plan.name, folder.weights.name, folder.folds.name)
        self._upload(name for name in first if name in files)
        self._upload_trials(old, files, records)
        if extent is not None:
            self._put(_JOURNAL, extent.content)
        self._upload_trials(new, files, records)
        if extent is not None and extent.content != journal:
            return False
        self._upload_checkpoints(old | new, files)
        self._upload_bundles(files)
        others = [name for name in files if not name.startswith("trials/") and not _is_told_by_content(name)]
        self._upload(sorted(others, key=lambda name: files[name][1]))  # a result comes after what it is the result of
        for path in folder.root.glob("*.jsonl"):
            self._put(path.name, _content(path) or b"")
        if end is not None:
            self._put(folder.search_end.name, end)
        for name in gone - files.keys():
            if not _is_told_by_content(name):
                self._delete(name)
        return True

    def _upload_trials(
        self, numbers: Iterable[int], files: Mapping[str, Stamp], records: Mapping[int, bytes | None]
    ) -> None:
        own: dict[int, list[str]] = {number: [] for number in sorted(numbers)}
        for name in files:
            if (number := _trial_of(name)) in own and not name.endswith((_CHECKPOINT, _RECORD)):
                own[number].append(name)
        for number, names in own.items():
            bare = {name for name in names if name.endswith(_RESULT) and name.replace(_RESULT, _WEIGHTS) not in files}
            before = [name for name in names if name not in bare]
            self._upload(sorted(before, key=lambda name: (name.endswith(_RESULT), files[name][1])))
            record = records[number] or b"{}"
            self._put(f"trials/{number}/{_RECORD}", record)
            if json.loads(record).get("state") in _ENDED:
                self._upload(sorted(bare))

    def _upload_checkpoints(self, numbers: set[int], files: Mapping[str, Stamp]) -> None:
        for name in [name for name in files if name.endswith(f"/{_CHECKPOINT}")]:
            if _trial_of(name) in numbers and (self._folder.root / name).exists():
                try:
                    self._upload([name])
                except _MovedError:  # its fold has ended: the next pass brings the result
                    continue

    def _upload_bundles(self, files: Mapping[str, Stamp]) -> None:
        """Upload the bundles that have changed; one is none while its document is missing."""
        for document in [name for name in files if name.startswith("ensembles/") and name.endswith(f"/{_DOCUMENT}")]:
            start = document.removesuffix(_DOCUMENT)
            own = [name for name in files if name.startswith(start) and name != document]
            if any(not self._is_there(name, files[name]) for name in own):
                self._delete(document)
            self._upload([*own, document])

    def _upload(self, names: Iterable[str]) -> None:
        for name in names:
            path = self._folder.root / name
            try:
                stamp = _stamp(path)
                if not self._is_there(name, stamp):
                    self._confirm()
                    self._remote.write(name, path)
                    self._knows(name, stamp)
            except FileNotFoundError:
                raise _MovedError(name) from None

    def _put(self, name: str, content: bytes) -> None:
        stamp = (len(content), zlib.crc32(content))
        if not self._is_there(name, stamp):
            self._confirm()
            self._remote.write(name, content)
            self._knows(name, stamp)

    def _delete(self, name: str) -> None:
        if name in self._state.files:
            self._confirm()
            self._remote.delete(name)
            del self._state.files[name]
            self._changed = True

    def _knows(self, name: str, stamp: Stamp) -> None:
        self._state.files[name] = _Known(stamp)
        self._changed = True

    def _is_there(self, name: str, stamp: Stamp) -> bool:
        return name in self._state.files and self._state.files[name].local == stamp

    def _confirm(self) -> None:
        assert self._lease is not None, "only a holder pushes"
        self._lease.confirm()

    def _pushed_numbers(self) -> set[int]:
        return _recorded(self._state.files)

    def _listing(self) -> dict[str, Stamp]:
        return {name: stamp for name, stamp in self._remote.list().items() if _is_mirrored(name)}

    def _pull(self, listing: Mapping[str, Stamp], is_wanted: Callable[[str], bool]) -> None:
        """Make the folder equal to what is listed; files that are not wanted are left out."""
        self._state.is_whole = False
        self._write_state()
        root, files = self._folder.root, self._state.files
        # An object that is replaced within the second in which the listing was made may look unchanged.
        newest = max((mtime for _, mtime in listing.values()), default=0) - 10**9

        def fetch(name: str) -> None:
            path = root / name
            if name in files and path.exists() and files[name] == _Known(_stamp(path), listing[name]):
                return
            if self._remote.download(name, path):
                files[name] = _Known(_stamp(path), listing[name] if listing[name][1] <= newest else None)

        with ThreadPoolExecutor(_TOGETHER) as several:
            list(several.map(fetch, filter(is_wanted, listing)))
        for name in [name for name in files if name not in listing]:
            del files[name]
        for path in [path for path in _all_files(root) if path.relative_to(root).as_posix() not in listing]:
            _remove(path)
        self._write_state()

    def _read_state(self) -> _State:
        try:
            content: dict[str, Any] = json.loads((self._folder.root / _STATE).read_text(encoding="utf-8"))
            files = {
                name: _Known(*(None if stamp is None else (int(stamp[0]), int(stamp[1])) for stamp in stamps))
                for name, stamps in content["files"].items()
            }
            return _State(copy=content["copy"], is_whole=content["is_whole"], files=files)
        except (OSError, ValueError, KeyError, TypeError):
            return _State()  # all is pulled

    def _write_state(self) -> None:
        if self._folder.root.exists():
            files = {name: (known.local, known.remote) for name, known in self._state.files.items()}
            content = {"copy": self._state.copy, "is_whole": self._state.is_whole, "files": files}
            write_json(self._folder.root / _STATE, content)
        self._changed = False


def find_remote_study(reference: str, studies: Path, remote: Remote) -> None:
    """Pull what a reader needs of a study at a URI.

    Args:
        reference: Its name, or the study file that it was started with.
        studies: Folder of all studies on this machine.
        remote: The same at the URI.

    Raises:
        StudyError: There is no such study; those that exist are named.
    """
    path = Path(reference)
    name = study_name(path) if path.suffix in (".yaml", ".yml") and path.is_file() else reference.rpartition("/")[2]
    mirror = Mirror(StudyFolder(studies / name), remote.child(name))
    if not mirror.exists():
        known = sorted(each.split("/")[0] for each in remote.list() if each.endswith("/study.yaml"))
        raise StudyError(
            f"There is no study {name!r} in {remote.shown}. Studies there: {', '.join(known) or 'none'}. Give "
            "another place with --studies, in Python studies=."
        )
    mirror.refresh()


def _trial_of(name: str) -> int:
    """Return the number of the trial that a file belongs to, -1 where it belongs to none."""
    top, _, rest = name.partition("/")
    number = rest.partition("/")[0]
    return int(number) if top == "trials" and number.isdecimal() else -1


def _recorded(names: Iterable[str]) -> set[int]:
    """Return the trials whose trial.json is among the files."""
    return {_trial_of(name) for name in names if name.endswith(f"/{_RECORD}")} - {-1}


def _is_mirrored(name: str) -> bool:
    return not (is_hidden(name) or name.startswith((*_DERIVED, LEASE)) or name.endswith(".lock"))


def _is_light(name: str, bundle: str) -> bool:
    """Say whether a reader needs a file."""
    last = name.rpartition("/")[-1]
    if name.startswith("ensembles/"):
        return last == _DOCUMENT or bool(bundle and name.startswith(f"ensembles/{bundle}/"))
    return last not in (_CHECKPOINT, _WEIGHTS)


def _is_told_by_content(name: str) -> bool:
    """Say whether it is content, not size and time, that tells a file's versions apart: it is read before a pass."""
    return name in (_JOURNAL, "search.json") or name.endswith((f"/{_RECORD}", ".jsonl"))


def _stamp(path: Path) -> Stamp:
    """Return what tells a file's version here from others."""
    if _is_told_by_content(f"{path.parent.name}/{path.name}") or _is_told_by_content(path.name):
        content = path.read_bytes()
        return len(content), zlib.crc32(content)
    status = path.stat()
    return status.st_size, status.st_mtime_ns


def _content(path: Path) -> bytes | None:
    """Return what a small file holds, of one that is appended to its whole lines; None where it is missing."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return None
    return whole_lines(content) if path.suffix in (".journal", ".jsonl") else content


def _all_files(root: Path) -> Iterator[Path]:
    for path in root.rglob("*"):
        if _is_mirrored(path.relative_to(root).as_posix()) and path.is_file():
            yield path


def _files(root: Path) -> Iterator[tuple[str, Stamp]]:
    """Yield the files of a study with their versions; a fold's result only with all that was written before it.

    Raises:
        _MovedError: A fold has just been finished.
    """
    results = {path.parent for path in root.glob(f"trials/*/*/{_RESULT}")}
    for path in _all_files(root):
        name = path.relative_to(root).as_posix()
        if path.name == _RESULT and path.parent not in results:
            raise _MovedError(name)
        try:
            yield name, _stamp(path)
        except FileNotFoundError:
            continue  # just deleted


def _remove(path: Path) -> None:
    path.unlink(missing_ok=True)
    while not any(path.parent.iterdir()):
        path = path.parent
        path.rmdir()
