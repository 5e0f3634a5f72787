"""Image stores at a URI: what one machine has decoded, no other decodes again."""

import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from tempfile import mkdtemp

from consilia.config.card import DataCard
from consilia.data.store.image_store import PIXELS, ImageStore
from consilia.data.store.prepare import Progress, prepare
from consilia.study.remote import Remote, RemoteError, open_place

logger = logging.getLogger(__name__)


class SharedStores:
    """The stores at a URI, for `data.store.prepare`: a store's files are written before the note that names it.

    Args:
        remote: Folder of all stores.
        noted: Told what people should know.
    """

    def __init__(self, remote: Remote, noted: Callable[[str], None]) -> None:
        self._remote = remote
        self._noted = noted

    def fetch(self, note: str, root: Path) -> None:
        """Download the note of that name and its store, where the URI has them and `root` has not.

        Raises:
            RemoteError: The URI cannot be used, or the store changes while it is read.
        """
        self._remote.check()
        content = self._remote.read(note)
        if content is None:
            return
        name = str(json.loads(content)["store"])
        if not (root / name).exists():
            store = self._remote.child(name)
            self._noted(f"downloading prepared images from {store.shown}")
            partial = Path(mkdtemp(dir=root, prefix=".pull-"))
            try:
                for file, (size, _) in store.list().items():
                    if not store.download(file, partial / file) or (partial / file).stat().st_size != size:
                        raise RemoteError(f"{store.shown} changes while it is read; try again.")
                partial.chmod(0o755)
                partial.rename(root / name)
            finally:
                shutil.rmtree(partial, ignore_errors=True)
        (root / note).parent.mkdir(exist_ok=True)
        (root / note).write_bytes(content)

    def publish(self, note: str, store: Path) -> None:
        """Upload a store and its note, where the URI has not got them; a failure is said, and does no other harm."""
        try:
            self._remote.check()
            content = (store.parent / note).read_bytes()
            if self._remote.read(note) == content:
                return
            self._noted(f"uploading prepared images to {self._remote.shown}")
            there = self._remote.child(store.name).list()
            for path in sorted(store.iterdir()):
                # The store is named after its pixels' content; its index may name other files.
                if path.name != PIXELS or there.get(PIXELS, (0, 0))[0] != path.stat().st_size:
                    self._remote.write(f"{store.name}/{path.name}", path)
            self._remote.write(note, content)
        except RemoteError as error:
            self._noted(f"prepared images were not uploaded: {error}")


def prepare_at(card: DataCard, stores: str | Path, *, progress: Progress | None = None) -> ImageStore:
    """Prepare a card's data in a folder of stores, or at its URI; see `data.store.prepare`."""
    place = open_place(stores)
    shared = None if place.remote is None else SharedStores(place.remote, logger.info)
    return prepare(card, root=place.local, progress=progress, shared=shared)
