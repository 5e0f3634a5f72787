"""Whether a prepared data set is one that an ensemble can be measured on."""

from consilia.bundle.document import BundleDocument
from consilia.data.store.image_store import ImageStore
from consilia.errors import DataError


def check_store(store: ImageStore, document: BundleDocument) -> None:
    """Refuse a data set with other classes, or one that was read otherwise than the training images.

    Raises:
        DataError: Says what differs, and what to prepare instead.
    """
    manifest = store.manifest
    expected: dict[str, object] = {"classes": document.classes, **dict(document.reading)}
    found: dict[str, object] = {"classes": store.classes, **dict(manifest.reading)}
    for what, wanted in expected.items():
        if wanted != found[what]:
            raise DataError(
                f"{store.folder}: {what} must be {wanted}, as in ensemble {document.name}, but is "
                f"{found[what]}. Prepare the data set again with that {what} (--set {what}=...)."
            )
    if strange := set(manifest.kinds) - set(document.kinds):
        raise DataError(
            f"{store.folder}: its images are {', '.join(sorted(strange))}, but ensemble {document.name} was "
            f"trained on {', '.join(document.kinds)} only. Evaluate it on images of that kind."
        )
