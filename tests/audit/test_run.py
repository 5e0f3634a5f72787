"""What an audit finds of planted leaks, copies and conflicts."""

from collections import Counter

import numpy as np
import pytest

from audit_stores import CLASSES, alternating, four_to_one, make_audit_store, noise
from consilia.audit.document import Audit, read_audit
from consilia.audit.run import audit
from consilia.data.sources.listing import Quarantined
from consilia.errors import DataError
from data_tables import card_of, shipped_card

N = 60


def topics(found: Audit, severity: str) -> list[str]:
    return [each.topic for each in found.findings if each.severity == severity]


def brief(store, **fields) -> Audit:
    return audit(store, card_of(None, **fields), shortcuts=False)


def with_copies(pixels: np.ndarray, *pairs: tuple[int, int]) -> np.ndarray:
    for first, second in pairs:
        pixels[second] = pixels[first]
    return pixels


def test_clean_data_have_no_error_and_no_warning():
    found = brief(make_audit_store(alternating(N), splits=four_to_one(N)))
    assert topics(found, "error") == topics(found, "warning") == []


def test_counts_are_those_of_the_index_and_of_the_folds():
    found = brief(make_audit_store(alternating(N), splits=four_to_one(N)))
    assert found.counts.by_split == {
        "train": dict.fromkeys(CLASSES, 24),
        "test": dict.fromkeys(CLASSES, 6),
    }
    folds = Counter()
    for name, counts in found.counts.by_fold.items():
        folds.update({"test" if name == "test" else "train": sum(counts.values())})
    assert folds == {"train": 48, "test": 12}
    assert len(found.counts.by_fold) == found.counts.k + 1
    assert (found.counts.n_patients, found.counts.images_per_patient.high) == (N, 1)


def test_intensities_are_those_of_the_pixels():
    store = make_audit_store(alternating(N), splits=four_to_one(N))
    (found,) = (e for e in brief(store).intensities if (e.split, e.label) == ("test", "malignant"))
    rows = (store.index["split"] == "test") & (store.index["label"] == 1)
    pixels = store.pixels[rows.to_numpy()] / 255
    assert found.n_images == len(pixels)
    assert (found.mean, found.std) == (pytest.approx(pixels.mean()), pytest.approx(pixels.std()))


def test_a_copy_across_train_and_test_is_an_error():
    pixels = with_copies(noise(N), (0, 2), (4, 6))
    found = brief(make_audit_store(alternating(N), pixels=pixels, splits=four_to_one(N)))
    assert "leak" in topics(found, "error")
    (case,) = (case for case in found.duplicates.exact if case.reaches_test)
    assert [image.file for image in case.images] == ["0000.png", "0002.png"]
    assert found.duplicates.exact[0] == case  # what matters most comes first
    assert found.counts.by_fold == {}
    assert "0000.png" in found.counts.no_folds


@pytest.mark.parametrize("on_leak", ["drop_train", "keep"])
def test_a_leak_that_the_card_decides_on_is_a_warning(on_leak):
    pixels = with_copies(noise(N), (0, 2))
    found = brief(make_audit_store(alternating(N), pixels=pixels, splits=four_to_one(N)), on_leak=on_leak)
    assert "leak" in topics(found, "warning")
    assert f"on_leak: {on_leak}" in next(each.action for each in found.findings if each.topic == "leak")


def test_copies_across_train_and_val_are_no_error():
    splits = ["val" if row < 4 else "train" for row in range(N)]
    pixels = with_copies(noise(N), (0, 10), (20, 22))
    store = make_audit_store(alternating(N), pixels=pixels, splits=splits, has_patients=False)
    found = brief(store, test="none")
    assert topics(found, "error") == topics(found, "warning") == []
    sentence = next(each.sentence for each in found.findings if each.topic == "duplicates")
    assert sentence == "2 groups of exact duplicates (4 images); across train and val: 1."


def test_a_patient_in_train_and_test_is_an_error_and_listed():
    patients = [f"p{row}" for row in range(N)]
    patients[2] = "p0"  # row 0 is test, row 2 train
    found = brief(make_audit_store(alternating(N), patients=patients, splits=four_to_one(N)))
    assert "leak" in topics(found, "error")
    (crossing,) = found.crossing_patients
    assert crossing.files == {"test": ("0000.png",), "train": ("0002.png",)}


def test_one_picture_with_two_labels_is_listed_by_file():
    pixels = with_copies(noise(N), (2, 3))
    found = brief(make_audit_store(alternating(N), pixels=pixels, has_patients=False))
    assert topics(found, "warning") == ["label conflict"]
    assert "0002.png (no split, benign) and 0003.png (no split, malignant)" in found.findings[0].sentence
    (case,) = found.duplicates.exact
    assert case.conflicts


def test_a_class_with_fewer_patients_than_folds_is_an_error_that_names_it():
    labels = [0] * 40 + [1] * 4
    found = brief(make_audit_store(labels), test="none")
    assert topics(found, "error") == ["small class"]
    assert "'malignant' has 4" in found.findings[0].sentence
    assert "'malignant'" in found.counts.no_folds


def test_copies_do_not_make_a_class_large_enough():
    labels = [0] * 40 + [1] * 6
    pixels = with_copies(noise(46), (40, 41), (40, 42))
    assert topics(brief(make_audit_store(labels), test="none"), "error") == []
    assert topics(brief(make_audit_store(labels, pixels=pixels), test="none"), "error") == ["small class"]


def test_unreadable_files_are_a_warning_that_names_them():
    bad = (Quarantined(file="broken.png", reason="truncated"),)
    found = brief(make_audit_store(alternating(N), quarantine=bad))
    assert topics(found, "warning") == ["unreadable"]
    assert "broken.png" in found.findings[0].sentence


def test_errors_come_before_warnings_before_notes():
    pixels = with_copies(noise(N), (0, 3))
    found = brief(make_audit_store(alternating(N), pixels=pixels, splits=four_to_one(N)))
    order = [each.severity for each in found.findings]
    assert order == sorted(order, key=("error", "warning", "note").index)
    assert {"error", "warning", "note"} == set(order)


def test_an_audit_survives_its_file(tmp_path):
    pixels = with_copies(noise(N), (0, 3))
    columns = {"meta_site": ["x", "y", "y"] * (N // 3), "tag_Laterality": ["L", ""] * (N // 2)}
    store = make_audit_store(alternating(N), pixels=pixels, splits=four_to_one(N), columns=columns)
    found = audit(store, card_of(None))
    found.write(tmp_path / "audit.json")
    assert read_audit(tmp_path / "audit.json") == found


def test_a_file_that_is_no_audit_is_refused_with_the_remedy(tmp_path):
    (tmp_path / "audit.json").write_text('{"schema_version": 7}')
    with pytest.raises(DataError, match="consilia data audit"):
        read_audit(tmp_path / "audit.json")


def test_the_27_groups_of_pneumoniamnist_are_found(real_data, tmp_path):
    from consilia.data.store.prepare import prepare

    card = shipped_card("pneumoniamnist", path=str(real_data / "pneumoniamnist_28.npz"))
    found = audit(prepare(card, root=tmp_path), card, shortcuts=False)
    assert topics(found, "error") == []
    assert len(found.duplicates.exact) == 27
    across = [case for case in found.duplicates.exact if case.crosses_splits]
    assert [case.splits for case in across] == [{"train", "val"}] * 8
    assert any("27 groups of exact duplicates" in each.sentence for each in found.findings)


def test_what_is_dropped_is_counted_beside_the_folds():
    pixels = with_copies(noise(N), (0, 2))
    found = brief(make_audit_store(alternating(N), pixels=pixels, splits=four_to_one(N)), on_leak="drop_train")
    assert sum(found.counts.by_fold["left out"].values()) == 1
    assert "images left out of training: 1" in next(each.action for each in found.findings if each.topic == "leak")


def test_a_near_duplicate_across_train_and_test_is_an_error():
    side = np.linspace(-1, 1, 32)
    shapes = [np.sin(3 * np.add.outer((i % 7 + 1) * side, (i % 5 - 2) * side) + i) for i in range(N)]
    pixels = (120 + 90 * np.stack(shapes)).astype(np.uint8)[..., None]
    pixels[2] = np.clip(pixels[0] * 0.9 + 5, 0, 255).astype(np.uint8)
    found = brief(make_audit_store(alternating(N), pixels=pixels, splits=four_to_one(N)))
    assert (0, 2) in [tuple(image.image_id for image in case.images) for case in found.duplicates.near]
    assert any("near-duplicate pair" in each.sentence for each in found.findings if each.severity == "error")


def test_a_picture_under_two_patients_is_a_warning_and_one_under_one_patient_is_not():
    pixels = with_copies(noise(N), (2, 4))
    patients = [f"p{row}" for row in range(N)]
    assert topics(brief(make_audit_store(alternating(N), pixels=pixels, patients=patients)), "warning") == ["patients"]
    patients[4] = patients[2]
    assert topics(brief(make_audit_store(alternating(N), pixels=pixels, patients=patients)), "warning") == []
