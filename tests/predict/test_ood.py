"""From a study's images to a verdict on each new one: what the bundle's gate lets pass. Source: docs/methods.md 7."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.stats import betabinom

from consilia.config.card import DataCard, NpzSource
from consilia.config.network import ModelSpec
from consilia.config.recipe import BestSingle, EnsembleRecipe
from consilia.config.records import FoldResult, OodVerdict, TrialRecord
from consilia.config.space import Architecture, Hyperparameters, SearchSpace
from consilia.config.study import FoldsPlan, StudyPlan
from consilia.config.study_folder import StudyFolder
from consilia.data.folds import FoldPlan, make_folds
from consilia.data.phantom_image import CLASSES
from consilia.data.store.image_store import ImageStore
from consilia.data.store.prepare import prepare
from consilia.decision.ood.verdict import FLAG_BELOW, reasons
from consilia.ensemble.build import build_ensemble
from consilia.predict.loading import load_predictor
from consilia.predict.predictor import EnsemblePredictor
from consilia.train.network_files import write_weights
from consilia.train.tables import write_out_of_fold
from unusual_pictures import FOREIGN, N_FOREIGN, draw_phantoms, preprocess, train

RESNET = Architecture(timm="test_resnet")
N_IMAGES, N_NEW = 1200, 1000  # enough to reject


@dataclass(frozen=True)
class Finished:
    store: ImageStore
    folds: FoldPlan
    predictor: EnsemblePredictor


def finish_study(folder: Path, pixels, labels, classes) -> Finished:
    """Train one network on 600 of the images outside the first fold, and build its bundle: it stands for both folds."""
    folder.mkdir(exist_ok=True)
    np.savez(folder / "images.npz", train_images=pixels[..., 0], train_labels=labels[:, None])
    card = DataCard(
        name="images",
        path=str(folder),
        source=NpzSource(file="images.npz"),
        classes=classes,
        group="none",
        size=pixels.shape[1],
    )
    store = prepare(card, root=folder / "stores")
    folds = make_folds(store, k=2, seed=0, test="none", test_fraction=0.2)
    rows = folds.training(0)[:600]
    model = train(RESNET.timm, store.pixels[rows], store.labels[rows], n_classes=len(classes))
    files, results = StudyFolder(folder / "study"), []
    for fold in range(2):
        held_out = folds.validation(fold)
        truth = np.eye(len(classes), dtype=np.float32)[store.labels[held_out]]
        logits = truth + np.random.default_rng(fold).normal(size=truth.shape).astype(np.float32)
        at = files.trial(0).fold(fold)
        spec = ModelSpec(architecture=RESNET, n_classes=len(classes), channels=1)
        write_weights(at.weights, model.state_dict(), model=spec, preprocessing=preprocess(pixels.shape[1]))
        write_out_of_fold(at.oof, held_out, logits)
        metrics = {"log_loss": 1.0}
        results.append(FoldResult(fold=fold, epochs=1, metrics=metrics, n_images=len(held_out), seconds=1.0))
    trial = TrialRecord(
        number=0, state="finished", hyperparameters=Hyperparameters(architecture="resnet"), folds=tuple(results)
    )
    space = SearchSpace(family="tiny", architectures={"resnet": RESNET}, start_with=("resnet",), parameters={})
    recipe = EnsembleRecipe(name="best", selection=BestSingle())
    plan = StudyPlan(name="images", data=card, folds=FoldsPlan(k=2), spaces=(space,), ensemble=recipe)
    bundle = build_ensemble([trial], plan=plan, recipe=recipe, folder=files, store=store, folds=folds)
    return Finished(store=store, folds=folds, predictor=load_predictor(bundle, device="cpu"))


def verdicts(predictor, images, **options) -> list[OodVerdict]:
    return [prediction.unusual for prediction in predictor.predict(images, **options)]


def expected_flags(n_new, n_reference):
    """Bounds that the number of flags among new images of the same kind keeps in 99 of 100 studies."""
    c = int(np.ceil(FLAG_BELOW * (n_reference + 1))) - 1  # ranks that flag; the reference is drawn too
    return betabinom(n_new, c, n_reference + 1 - c).interval(0.99)


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (None, ()),
        (OodVerdict(state="usual", p_value=0.5, part="edges"), ()),
        (OodVerdict(state="unusual", p_value=0.5, part="edges", broken_rules=("it is long",)), ("it is long",)),
        (
            OodVerdict(state="unusual", p_value=0.004, part="edges"),
            ("unusual: unlike most training images, above all in its edges (p 0.0040)",),
        ),
        (
            OodVerdict(state="rejected", p_value=0.0005, part="layout", broken_rules=("it is long",)),
            ("rejected: unlike the training images, above all in its layout (p 0.0005)", "it is long"),
        ),
    ],
)
def test_what_is_unusual_is_said_in_words_the_gravest_first(found, expected):
    assert reasons(found) == expected


@pytest.fixture(scope="module")
def phantom_study(tmp_path_factory) -> Finished:
    pixels, labels = draw_phantoms(N_IMAGES, seed=0)
    return finish_study(tmp_path_factory.mktemp("phantoms"), pixels, labels, CLASSES)


@pytest.fixture(scope="module")
def gated(phantom_study) -> EnsemblePredictor:
    return phantom_study.predictor


@pytest.fixture(scope="module")
def new():
    return draw_phantoms(N_NEW, seed=2)[0]


@pytest.mark.parametrize("kind", FOREIGN)
def test_predictions_of_images_of_another_kind_ask_for_a_person(gated, new, kind):
    found = gated.predict(FOREIGN[kind](new[:N_FOREIGN]))
    assert np.mean([each.unusual.state != "usual" for each in found]) >= 0.95
    assert all(each.review[: len(reasons(each.unusual))] == reasons(each.unusual) for each in found)
    assert all(each.needs_review for each in found if each.unusual.state != "usual")


def test_a_study_of_180_images_flags_a_sheet_of_plots_by_its_distance_and_says_in_what_it_is_unlike(tmp_path):
    pixels, labels = draw_phantoms(180, seed=0)
    gated = finish_study(tmp_path, pixels, labels, CLASSES).predictor
    for found in verdicts(gated, FOREIGN["sheet of plots"](None)):
        assert found.p_value < FLAG_BELOW
        assert found.state == "unusual"  # so few images reject none
        assert reasons(found)[0].startswith("unusual: unlike most training images, above all in its ")
    assert np.mean([each.state == "usual" for each in verdicts(gated, draw_phantoms(100, seed=1)[0])]) > 0.9


def test_new_images_of_the_same_kind_are_unusual_one_in_a_hundred(gated, new):
    n_reference = gated.document.gate.compared_with
    assert n_reference >= 1000
    low, high = expected_flags(N_NEW, n_reference)
    assert low <= sum(each.state != "usual" for each in verdicts(gated, new)) <= high


def test_a_rejected_image_says_so_first_and_keeps_its_probabilities(gated):
    noise = np.random.default_rng(4).integers(0, 256, (32, 32, 1), dtype=np.uint8)
    (found,) = gated.predict(noise)
    assert found.unusual.state == "rejected"
    assert found.unusual.p_value == 1 / (gated.document.gate.compared_with + 1)
    assert found.review[0].startswith("rejected: unlike the training images, above all in its edges (p 0.00")
    assert list(found.probabilities.values()) == gated.predict_proba(noise)[0].tolist()


def test_neither_batches_nor_order_change_a_verdict(gated, new):
    images = np.concatenate([new[:40], 255 - new[:10], np.rot90(new[:20], axes=(1, 2))])
    together = verdicts(gated, images, batch_size=64)
    order = np.random.default_rng(0).permutation(len(images))
    shuffled = verdicts(gated, images[order])
    for found in (verdicts(gated, images, batch_size=1), [shuffled[place] for place in np.argsort(order)]):
        assert [each.broken_rules for each in found] == [each.broken_rules for each in together]
        # Rounding may move an image past a neighbour of the reference.
        p_values = [[each.p_value for each in side] for side in (found, together)]
        np.testing.assert_allclose(*p_values, atol=1.5 / gated.document.gate.compared_with)
        assert np.mean([a.state == b.state for a, b in zip(found, together, strict=True)]) > 0.98


def test_an_unusual_image_asks_for_a_look_at_its_patient(gated, new):
    usual = [image for image, each in zip(new[:50], verdicts(gated, new[:50]), strict=True) if each.state == "usual"]
    first, second = gated.predict_patients([usual[0], usual[1], 255 - usual[2]], ["a", "b", "a"])
    assert first.unusual == gated.predict(255 - usual[2])[0].unusual
    assert any("image 2: " in reason and "training images" in reason for reason in first.review)
    assert first.needs_review
    assert second.unusual.state == "usual"


def test_the_shape_and_the_colour_of_a_file_count_though_the_networks_see_a_grey_square(gated, new, tmp_path):
    phantom = new[0, :, :, 0]
    pictures = {
        "grey.png": Image.fromarray(phantom),
        "grey in RGB.png": Image.fromarray(phantom).convert("RGB"),
        "red.png": Image.fromarray(np.stack([phantom, phantom // 2, phantom // 2], axis=2)),
        "long.png": Image.fromarray(phantom).resize((64, 32)),
    }
    for name, picture in pictures.items():
        picture.save(tmp_path / name)
    found = [
        verdicts(gated, [tmp_path / name for name in pictures]),
        verdicts(gated, list(pictures.values())),
        verdicts(gated, [np.asarray(picture) for picture in pictures.values()]),
    ]
    for grey, grey_in_colours, red, long in found:
        assert grey == grey_in_colours
        assert grey.broken_rules == ()
        assert any(phrase.startswith("colour, in levels between channels is") for phrase in red.broken_rules)
        assert "width over height is 2.00, but at most 1.20 in training images" in long.broken_rules
        assert {red.state, long.state} <= {"unusual", "rejected"}
    assert found[0] == found[1] == found[2]


def test_the_prevalence_does_not_make_an_image_usual(gated, new):
    moved = gated.for_prevalence(dict.fromkeys(CLASSES[1:], 0.05))
    assert verdicts(moved, 255 - new[:5]) == verdicts(gated, 255 - new[:5])


def test_real_radiographs_pass_and_turned_or_inverted_ones_do_not(real_data, tmp_path):
    with np.load(real_data / "pneumoniamnist_28.npz") as archive:
        images, labels = archive["train_images"][..., None], archive["train_labels"][:, 0].astype(np.int64)
    chosen = np.random.default_rng(0).permutation(len(images))
    study, held_out = np.split(chosen[: 2100 + 500], [2100])
    gated = finish_study(tmp_path, images[study], labels[study], ("normal", "pneumonia")).predictor
    new = images[held_out]
    low, high = expected_flags(len(new), gated.document.gate.compared_with)
    assert low <= sum(each.p_value < FLAG_BELOW for each in verdicts(gated, new)) <= high
    for changed in (255 - new, *(np.rot90(new, turns, axes=(1, 2)) for turns in (1, 2, 3))):
        assert np.mean([each.state != "usual" for each in verdicts(gated, changed)]) >= 0.95
