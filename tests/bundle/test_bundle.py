import json
import os

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from consilia.bundle import golden, writing
from consilia.bundle.document import SCHEMA_VERSION
from consilia.bundle.reading import read_bundle
from consilia.bundle.writing import publish_folder, record_evaluation
from consilia.ensemble.evaluate import evaluate
from consilia.errors import BundleError
from consilia.files import sha256_of_file, sha256_of_json
from consilia.predict.loading import load_predictor

MEMBER = "members/trial-0-fold-1.safetensors"
FILES = ["ensemble.json", "golden.npz", "card.md", MEMBER]


def rewrite(bundle, change):
    """Change the document, then sign it again, as someone would who knows the format."""
    path = bundle / "ensemble.json"
    content = json.loads(path.read_text())
    change(content)
    for name, record in content["files"].items():
        file = bundle / name
        if file.is_file():
            record.update(bytes=file.stat().st_size, sha256=sha256_of_file(file))
    content.pop("digest")
    path.write_text(json.dumps({**content, "digest": sha256_of_json(content)}))


def refuse(bundle, match):
    with pytest.raises(BundleError, match=match):
        load_predictor(bundle, device="cpu")


def test_an_untouched_copy_loads(bundle):
    assert load_predictor(str(bundle), device="cpu").classes == ("clear", "nodule")


def test_signing_again_without_a_change_is_accepted(bundle):
    rewrite(bundle, lambda content: None)
    load_predictor(bundle, device="cpu")


@pytest.mark.parametrize("name", FILES)
def test_a_changed_byte_is_found(bundle, name):
    path = bundle / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    refuse(bundle, name.split("/")[-1])


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_named(bundle, name):
    (bundle / name).unlink()
    refuse(bundle, name)


@pytest.mark.parametrize("name", FILES[1:])
def test_a_file_that_grew_is_found(bundle, name):
    with (bundle / name).open("ab") as file:
        file.write(b"0")
    refuse(bundle, "must have .* bytes")


def test_a_folder_that_is_no_bundle_is_refused(tmp_path):
    refuse(tmp_path, "holds no ensemble.json")
    refuse(tmp_path / "absent", "holds no ensemble.json")


@pytest.mark.parametrize("text", ["", "{", "[]", "[" * 100_000, '{"schema_version": NaN}', "\ufffd\x00"])
def test_a_document_that_is_not_json_is_refused(bundle, text):
    (bundle / "ensemble.json").write_text(text)
    refuse(bundle, r"ensemble\.json")


def test_a_newer_schema_names_the_version_to_install(bundle):
    rewrite(bundle, lambda content: content.update(schema_version=8, consilia="7.1.0", novelty=[]))
    refuse(bundle, r"written by consilia 7\.1\.0 with schema version 8.*Install consilia 7\.1\.0 or later")


def test_an_older_schema_is_refused(bundle):
    rewrite(bundle, lambda content: content.update(schema_version=SCHEMA_VERSION - 1))
    refuse(bundle, r"must have schema version 7, the only one .*, but has 6\. Build it again")


@pytest.mark.parametrize("key", ["build", "sizes", "prevalence", "safety", "honesty", "gate"])
def test_what_a_bundle_says_of_itself_must_be_there(bundle, key):
    rewrite(bundle, lambda content: content.pop(key))
    refuse(bundle, f"{key}: Field required")


@pytest.mark.parametrize("value", [0, "1", None, True, 1.5])
def test_a_schema_version_that_is_none_is_refused(bundle, value):
    rewrite(bundle, lambda content: content.update(schema_version=value))
    refuse(bundle, "schema_version must be a whole number")


def test_an_unknown_key_is_named(bundle):
    rewrite(bundle, lambda content: content["reading"].update(windw=3))
    refuse(bundle, r"reading\.windw")


@pytest.mark.parametrize("name", ["../outside.safetensors", "members/../../x", "/etc/hostname", "", "C:/x", "a\\b"])
def test_a_path_that_leaves_the_bundle_is_refused(bundle, name):
    (bundle.parent / "outside.safetensors").write_bytes(b"x")
    rewrite(bundle, lambda content: content["files"].update({name: {"bytes": 1, "sha256": "0" * 64}}))
    refuse(bundle, "leads out of it")


@pytest.mark.parametrize("name", [MEMBER, "members"])
def test_a_link_is_refused(bundle, name):
    outside = bundle.parent / "outside"
    (bundle / name).rename(outside)
    (bundle / name).symlink_to(outside)
    refuse(bundle, f"must not hold links, but {name} is one")


def test_a_member_that_is_not_listed_is_refused(bundle):
    rewrite(bundle, lambda content: content["files"].pop(MEMBER))
    refuse(bundle, "must list every network")


@pytest.mark.parametrize("name", ["golden.npz", "card.md"])
def test_a_bundle_without_golden_outputs_or_card_is_refused(bundle, name):
    rewrite(bundle, lambda content: content["files"].pop(name))
    refuse(bundle, f"must list {name}")


def test_weights_that_do_not_sum_to_one_are_refused(bundle):
    rewrite(bundle, lambda content: content["members"][0].update(weight=0.9))
    refuse(bundle, "must sum to 1")


def test_a_calibrator_of_another_number_of_classes_is_refused(bundle):
    calibrator = {"kind": "temperature_bias", "temperature": 1.0, "biases": [0.1, 0.0, -0.1]}
    rewrite(bundle, lambda content: content.update(calibrator=calibrator))
    refuse(bundle, "the calibrator must be one of 2 classes, but is one of 3")


def test_other_weights_of_the_members_do_not_reproduce_the_golden_outputs(bundle):
    def swap(content):
        content["members"][0]["weight"], content["members"][1]["weight"] = 0.9, 0.1

    rewrite(bundle, swap)
    refuse(bundle, "golden outputs")


def test_another_model_does_not_reproduce_the_golden_outputs(bundle):
    state = load_file(bundle / MEMBER)
    state["fc.bias"] = state["fc.bias"] + torch.tensor([0.5, 0.0])
    save_file(state, bundle / MEMBER)
    rewrite(bundle, lambda content: None)
    refuse(bundle, "must reproduce its golden outputs within 0, but differs by")


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda state: state.pop("fc.bias"), "lacks 'fc.bias'"),
        (lambda state: state.update(extra=torch.zeros(1)), "also holds 'extra'"),
        (lambda state: state.update({"fc.bias": torch.zeros(3)}), r"'fc.bias' must be \(2,\)"),
        (lambda state: state.update({"fc.bias": torch.zeros(2).half()}), "float32, but is .* torch.float16"),
    ],
)
def test_weights_that_do_not_fit_the_model_exactly_are_refused(bundle, change, match):
    state = load_file(bundle / MEMBER)
    change(state)
    save_file(state, bundle / MEMBER)
    rewrite(bundle, lambda content: None)
    refuse(bundle, match)


def test_weights_that_are_no_safetensors_are_refused(bundle):
    (bundle / MEMBER).write_bytes(b"\x80\x04." + bytes(100))  # a pickle's beginning
    rewrite(bundle, lambda content: None)
    refuse(bundle, "cannot be read")


@pytest.mark.parametrize(
    "architecture",
    [
        {"timm": "hf-hub:someone/model", "arguments": {}},
        {"timm": "test_resnet", "arguments": {"checkpoint_path": "/tmp/evil.pt"}},
        {"timm": "test_resnet", "arguments": {"pretrained": 1}},
    ],
)
def test_a_model_that_would_fetch_or_unpickle_something_is_refused(bundle, architecture):
    rewrite(bundle, lambda content: content["members"][0]["model"].update(architecture=architecture))
    refuse(bundle, "model of trial 0 cannot be built")


def test_golden_outputs_with_a_pickle_are_not_unpickled(bundle, tmp_path):
    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "ran"),)

    np.savez(bundle / "golden.npz", images=np.array([Evil()], dtype=object), probabilities=np.zeros(1))
    rewrite(bundle, lambda content: None)
    refuse(bundle, r"images must have shape .* but has .* object")
    assert not (tmp_path / "ran").exists()


def test_golden_outputs_that_unpack_to_too_much_are_refused(bundle):
    np.savez_compressed(bundle / "golden.npz", images=np.zeros(65 * 2**20, np.uint8), probabilities=np.zeros(1))
    rewrite(bundle, lambda content: None)
    refuse(bundle, "images must have shape")


@pytest.mark.parametrize("shape", [(4, 8, 8, 1), (4, 32, 32, 3), (32, 32), (0, 32, 32, 1)])
def test_golden_inputs_of_another_shape_are_refused(bundle, shape):
    stored = dict(np.load(bundle / "golden.npz"))
    np.savez(bundle / "golden.npz", images=np.zeros(shape, np.uint8), probabilities=stored["probabilities"])
    rewrite(bundle, lambda content: None)
    refuse(bundle, r"golden\.npz")


def nudge_golden(bundle, difference):
    stored = dict(np.load(bundle / "golden.npz"))
    stored["probabilities"] += np.array([difference, -difference])
    np.savez(bundle / "golden.npz", **stored)


def test_where_the_bundle_was_written_every_bit_counts(bundle):
    nudge_golden(bundle, 1e-12)
    rewrite(bundle, lambda content: None)
    refuse(bundle, "within 0, but differs by 1e-12")


def test_elsewhere_rounding_is_forgiven_and_more_is_not(bundle):
    nudge_golden(bundle, 5e-4)
    rewrite(bundle, lambda content: content["environment"].update(processor="another"))
    load_predictor(bundle, device="cpu")
    nudge_golden(bundle, 6e-4)
    rewrite(bundle, lambda content: None)
    refuse(bundle, "within 0.001, but differs by 0.0011")


def test_golden_inputs_are_synthetic_and_of_the_stored_size(built_bundle, finished_study):
    images = np.load(built_bundle / "golden.npz")["images"]
    np.testing.assert_array_equal(images, golden.golden_images(read_bundle(built_bundle).reading))
    patients = finished_study.store.pixels
    assert not any(np.array_equal(image, other) for image in images for other in patients)


def test_an_evaluation_is_recorded_in_document_card_and_hashes(bundle, finished_study):
    predictor = load_predictor(bundle, device="cpu")
    evaluation = evaluate(predictor, finished_study.store, finished_study.folds.test)
    for _ in range(2):  # the second replaces the first
        record_evaluation(bundle, evaluation)
        document = load_predictor(bundle, device="cpu").document
        assert [entry.split for entry in document.evaluations] == ["cross_fitted", "test"]
    assert document.evaluations[1] == evaluation
    assert document.members == predictor.document.members
    card = (bundle / "card.md").read_text()
    assert "Locked test split" in card
    assert f"{evaluation.metrics['macro_auc'].value:.3f}" in card
    assert [path.name for path in bundle.parent.iterdir() if path.name.startswith(".")] == []


def test_the_card_tells_the_licence_of_the_software_from_that_of_the_weights(bundle):
    licence = (bundle / "card.md").read_text().partition("## Licence\n")[2]
    assert "Apache License 2.0" in licence
    assert "The weights are not" in licence


def test_a_damaged_bundle_gets_no_evaluation(bundle, predictor, finished_study):
    evaluation = evaluate(predictor, finished_study.store, finished_study.folds.test)
    (bundle / MEMBER).unlink()
    with pytest.raises(BundleError):
        record_evaluation(bundle, evaluation)


def test_a_folder_whose_filling_fails_is_not_published_and_the_old_one_stays(tmp_path):
    final = tmp_path / "final"
    publish_folder(final, lambda folder: (folder / "old").touch())

    def fail(folder):
        (folder / "new").touch()
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        publish_folder(final, fail)
    assert [path.name for path in tmp_path.rglob("*")] == ["final", "old"]


@pytest.mark.parametrize("can_swap", [True, False])
def test_a_published_folder_replaces_the_old_one_whole(tmp_path, monkeypatch, can_swap):
    if not can_swap:
        monkeypatch.setattr(writing, "_exchange", lambda first, second: False)
    final = tmp_path / "final"
    publish_folder(final, lambda folder: (folder / "old").touch())
    publish_folder(final, lambda folder: (folder / "new").touch())
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["final", "new"]
