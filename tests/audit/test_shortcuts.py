"""Planted shortcuts are found, chance is not, and what cannot be tried is said."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from audit_stores import alternating, make_audit_store, noise
from consilia.audit.document import Shortcut, Shortcuts
from consilia.audit.features import border_features, read_columns
from consilia.audit.run import audit
from consilia.audit.shortcuts import ALL_COLUMNS, BORDER, find_shortcuts
from consilia.data.store.image_store import ImageStore
from data_tables import card_of

N = 200


def find(store: ImageStore, **options) -> Shortcuts:
    return find_shortcuts(store, np.arange(len(store)), np.arange(len(store)), **options)


def tried(found: Shortcuts) -> dict[str, Shortcut]:
    return {each.name: each for each in found.tried}


def agreeing(labels: list[int], share: float, *, seed: int = 0) -> list[str]:
    """Sites that equal the label with probability `share`."""
    keep = np.random.default_rng(seed).random(len(labels)) < share
    return ["AB"[label if kept else 1 - label] for label, kept in zip(labels, keep, strict=True)]


def test_a_site_that_goes_with_the_label_warns_with_its_area_and_a_random_one_does_not():
    labels = alternating(N)
    planted = agreeing(labels, 0.8)
    columns = {"meta_site": planted, "meta_coin": agreeing(labels, 0.5, seed=1)}
    found = tried(find(make_audit_store(labels, columns=columns)))
    expected = roc_auc_score(labels, [each == "B" for each in planted])
    assert found["site"].auc.value == pytest.approx(expected, abs=0.03)
    assert found["site"].warns
    assert not found["site"].is_label
    assert not found["coin"].warns
    assert found[ALL_COLUMNS].auc.value == pytest.approx(found["site"].auc.value, abs=0.05)


def test_the_warning_stands_among_the_findings_with_what_to_do():
    labels = alternating(N)
    found = audit(make_audit_store(labels, columns={"meta_site": agreeing(labels, 0.85)}), card_of(None))
    (finding,) = (each for each in found.findings if each.topic == "shortcut")
    assert finding.severity == "warning"
    assert finding.sentence.startswith("Column 'site' alone predicts the label (AUC 0.7")
    assert finding.action


def test_whatever_warns_in_the_table_is_a_finding():
    labels = alternating(N)
    columns = {f"meta_{name}": agreeing(labels, 0.8, seed=seed) for seed, name in enumerate(("site", "room"))}
    found = audit(make_audit_store(labels, columns=columns), card_of(None))
    findings = [each.sentence for each in found.findings if each.topic == "shortcut"]
    assert len(findings) == sum(each.warns for each in found.shortcuts.tried) == 3
    assert any(each.startswith("All columns together predict the label (AUC 0.") for each in findings)


@pytest.mark.parametrize(("name", "crops"), [("mode", False), ("format", False), ("width", True)])
def test_cropping_is_only_advised_where_the_shape_of_the_file_tells(name, crops):
    labels = alternating(N)
    values = {"mode": ["L", "RGB"], "format": ["PNG", "JPEG"], "width": [60, 90]}[name]
    store = make_audit_store(labels, columns={name: [values[label] for label in labels]})
    (finding,) = (each for each in audit(store, card_of(None)).findings if f"'file {name}' alone" in each.sentence)
    assert ("crop" in finding.action.lower()) is crops
    assert "data of one source" in finding.action


def test_a_column_that_is_the_label_in_other_words_is_called_so():
    labels = alternating(N)
    found = find(make_audit_store(labels, columns={"meta_diagnosis": [("neg", "POS")[each] for each in labels]}))
    assert tried(found)["diagnosis"].is_label
    assert found.tried[0].auc.value == 1.0


def test_a_number_that_predicts_in_the_middle_of_its_range_is_found():
    generator = np.random.default_rng(0)
    exposure = generator.uniform(0, 1, N)
    labels = (np.abs(exposure - 0.5) < 0.25).astype(int).tolist()
    found = tried(find(make_audit_store(labels, columns={"tag_Exposure": [f"{each:.4f}" for each in exposure]})))
    assert found["Exposure"].auc.value > 0.9
    assert found["Exposure"].origin == "tag"


def test_one_class_from_one_site_is_not_diluted_by_the_other_classes():
    classes = tuple("abcdefgh")
    labels = [row % 8 for row in range(400)]
    found = tried(
        find(make_audit_store(labels, classes=classes, columns={"meta_site": ["xy"[each == 3] for each in labels]}))
    )
    assert found["site"].best_class == "d"
    assert found["site"].best_auc.value == 1.0
    assert found["site"].warns


def test_random_columns_of_small_data_hardly_ever_warn():
    labels = [row % 3 for row in range(60)]
    generator = np.random.default_rng(0)
    columns = {f"meta_c{i}": [str(each) for each in generator.integers(0, 4, 60)] for i in range(15)}
    found = tried(find(make_audit_store(labels, classes=("a", "b", "c"), columns=columns)))
    assert sum(found[f"c{i}"].warns for i in range(15)) <= 2


def test_a_patient_with_many_images_does_not_make_its_room_a_shortcut():
    labels = [row // 10 % 2 for row in range(N)]  # 20 patients with 10 images each, each in a room of its own
    patients = [f"p{row // 10}" for row in range(N)]
    columns = {"meta_room": [f"room {row // 10}" for row in range(N)]}
    store = make_audit_store(labels, patients=patients, columns=columns)
    _, skipped = read_columns(store.index)
    assert [each.name for each in skipped if "identifier" in each.reason] == ["room"]
    store = make_audit_store(
        labels, patients=patients, columns={"meta_room": [f"room {row // 30}" for row in range(N)]}
    )
    found = find_shortcuts(store, np.arange(N), np.arange(N) // 10)
    assert tried(found)["room"].auc.value < 0.6


def test_identifiers_constants_and_empty_columns_are_skipped_and_listed():
    columns = {
        "meta_accession": [str(7000 + row) for row in range(N)],
        "meta_country": ["CH"] * N,
        "tag_Empty": [""] * N,
        "meta_age": [f"{40 + row % 37}" for row in range(N)],
        "meta_dose": [f"{row / 7:.3f}" for row in range(N)],
    }
    features, skipped = read_columns(make_audit_store(alternating(N), columns=columns).index)
    assert {"age", "dose"} == {each.name for each in features}
    reasons = {each.name: each.reason for each in skipped}
    assert reasons["accession"].startswith("an identifier")
    assert reasons["country"] == "always 'CH'"
    assert reasons["Empty"] == "no image has a value"


def test_of_an_identifier_that_is_only_sometimes_there_its_presence_is_tried():
    labels = alternating(N)
    found = tried(find(make_audit_store(labels, columns={"meta_report": [f"r{i}" * (i % 2) for i in range(N)]})))
    assert found["report, whether it is filled"].is_label


def test_a_missing_number_is_a_value_of_its_own():
    columns = {"meta_gaps": (["1.5", "", "2.5"] * N)[:N]}
    features, _ = read_columns(make_audit_store(alternating(N), columns=columns).index)
    (gaps,) = (each for each in features if each.name == "gaps")
    assert (gaps.n_values, int((gaps.codes == -1).sum())) == (3, columns["meta_gaps"].count(""))


def marked(labels: list[int], *, share: float, size: int = 32) -> np.ndarray:
    """Noise, where a bright corner marker stands on `share` of class 1 and on the rest of class 0."""
    pixels = noise(len(labels), size=size)
    for image, site in zip(pixels, agreeing(labels, share), strict=True):
        if site == "B":
            image[:3, -6:] = 250
    return pixels


def test_a_marker_at_the_border_warns_and_the_same_marker_by_chance_does_not():
    labels = alternating(N)
    found = tried(find(make_audit_store(labels, pixels=marked(labels, share=0.85))))
    assert found[BORDER].warns
    assert found[BORDER].auc.value > 0.7
    found = tried(find(make_audit_store(labels, pixels=marked(labels, share=0.5))))
    assert not found[BORDER].warns


def test_the_middle_of_the_picture_is_no_border():
    labels = alternating(N)
    pixels = noise(N, size=30)
    pixels[1::2, 3:-3, 3:-3] = 255
    found = tried(find(make_audit_store(labels, pixels=pixels)))
    assert found[BORDER].auc.value < 0.6


@pytest.mark.parametrize(("size", "channels"), [(8, 1), (28, 1), (33, 3)])
def test_border_features_are_standardised_at_any_size_and_do_not_depend_on_chunks(size, channels, monkeypatch):
    store = make_audit_store(alternating(40), pixels=noise(40, size=size, channels=channels))
    rows = np.arange(3, 40)
    features = border_features(store, rows)
    varies = features.std(axis=0) > 1e-3
    np.testing.assert_allclose(features[:, varies].mean(axis=0), 0, atol=1e-5)
    np.testing.assert_allclose(features[:, varies].std(axis=0), 1, atol=1e-4)
    monkeypatch.setattr("consilia.audit.features._CHUNK_BYTES", 5 * size * size * channels)
    np.testing.assert_array_equal(border_features(store, rows), features)


def test_the_border_of_phantoms_from_two_scanners_says_nothing(phantoms, tmp_path):
    from consilia.data.store.prepare import prepare
    from data_tables import shipped_card

    card = shipped_card("phantoms", path=str(phantoms), size=32)
    found = audit(prepare(card, root=tmp_path), card)
    assert found.shortcuts is not None
    assert tried(found.shortcuts)[BORDER].auc.value < 0.6
    assert not tried(found.shortcuts)[BORDER].warns


def test_test_images_are_not_looked_at():
    labels = alternating(N)
    splits = ["test" if row < 100 else "train" for row in range(N)]
    site = [("AB"[label] if split == "test" else "A") for label, split in zip(labels, splits, strict=True)]
    found = audit(make_audit_store(labels, splits=splits, columns={"meta_site": site}), card_of(None))
    assert found.shortcuts is not None
    assert found.shortcuts.n_pool == 100
    assert "site" in {each.name for each in found.shortcuts.skipped}


def test_of_many_images_whole_groups_are_drawn_by_seed_and_it_is_said():
    labels = [row // 4 % 2 for row in range(N)]
    store = make_audit_store(labels)
    groups = np.arange(N) // 4
    found = find_shortcuts(store, np.arange(N), groups, most_images=100)
    assert (found.n_images, found.n_pool) == (100, N)
    assert found == find_shortcuts(store, np.arange(N), groups, most_images=100)


def test_what_cannot_be_cross_validated_is_said():
    found = find(make_audit_store([0] * 20 + [1]))
    assert found.tried == ()
    assert "'malignant' has a single patient" in found.not_tried
