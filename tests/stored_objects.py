"""An object store in memory, as pyarrow's file systems look, in which a driver may die between two changes."""

import io
from collections.abc import Callable

from pyarrow.fs import FileInfo, FileSelector, FileType


class DriverDiedError(Exception):
    """The driver is no more: nothing that it does has an effect."""


class Objects:
    """What lies in the store; it outlives drivers."""

    def __init__(self) -> None:
        self.contents: dict[str, bytes] = {}
        self.mtimes: dict[str, int] = {}
        self.now = 0  # seconds of the store's own clock

    def below(self, base: str) -> dict[str, bytes]:
        return {name.removeprefix(f"{base}/"): content for name, content in self.contents.items()}


class ObjectStore:
    """One driver's way to the objects.

    Args:
        objects: Shared with other drivers.
        before: Called before each change with the name of the object; what it raises is raised on.
    """

    type_name = "memory"

    def __init__(self, objects: Objects, before: Callable[[str], None] = lambda name: None) -> None:
        self._objects = objects
        self._before = before

    def get_file_info(self, what: FileSelector | list[str]) -> list[FileInfo]:
        if isinstance(what, FileSelector):
            names = [name for name in self._objects.contents if name.startswith(f"{what.base_dir}/")]
            return [self._info(name) for name in names]
        return [self._info(name) for name in what]

    def open_input_stream(self, path: str) -> io.BytesIO:
        if path not in self._objects.contents:
            raise FileNotFoundError(path)
        return io.BytesIO(self._objects.contents[path])

    def open_output_stream(self, path: str) -> io.BytesIO:
        return _Upload(lambda content: self._put(path, content))

    def delete_file(self, path: str) -> None:
        self._before(path)
        if self._objects.contents.pop(path, None) is None:
            raise FileNotFoundError(path)

    def _put(self, path: str, content: bytes) -> None:
        self._before(path)
        self._objects.contents[path] = content
        self._objects.mtimes[path] = self._objects.now

    def _info(self, name: str) -> FileInfo:
        if name in self._objects.contents:
            mtime = self._objects.mtimes[name] * 10**9
            return FileInfo(name, FileType.File, mtime_ns=mtime, size=len(self._objects.contents[name]))
        is_folder = any(each.startswith(f"{name}/") for each in self._objects.contents)
        return FileInfo(name, FileType.Directory if is_folder or "/" not in name else FileType.NotFound)


class _Upload(io.BytesIO):
    def __init__(self, commit: Callable[[bytes], None]) -> None:
        super().__init__()
        self._commit = commit

    def close(self) -> None:
        if not self.closed:
            content = self.getvalue()
            super().close()
            self._commit(content)


def dies_before(change: int, after_each: Callable[[], None] = lambda: None) -> Callable[[str], None]:
    """Return what lets a driver die before its change of this number, from 0."""
    count = 0

    def before(name: str) -> None:
        nonlocal count
        if count >= change:
            raise DriverDiedError(name)
        count += 1

    return before
