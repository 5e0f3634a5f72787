"""Bad input of every kind: the error says which file, row or key is meant, and nothing that was there is lost."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

import consilia
from consilia.cli.app import run
from consilia.config.card import DataCard
from consilia.config.catalog import load
from consilia.config.reading import Reading
from consilia.config.recipe import EnsembleRecipe
from consilia.config.strict_yaml import parse_settings
from consilia.config.study import ClusterProfile
from consilia.config.study_folder import StudyFolder
from consilia.data.decode.reader import read_image
from consilia.data.folds import make_folds
from consilia.data.store.prepare import prepare
from consilia.errors import BundleError, DataError, PlanError, ReaderError, StudyError
from consilia.files import sha256_of_json
from consilia.study.folder import claim_folder, find_study
from consilia.study.opened import OpenStudy
from consilia.study.plan import read_card, read_plan, read_single_plan
from consilia.study.preflight import check_disk
from consilia.study.spaces import read_space
from data_tables import balanced, card_of, picture, row, write_table

STUDY = {"name": "mine", "data": {"card": "phantoms", "path": "images"}, "spaces": ["tiny"]}
SPACE = {
    "family": "own",
    "architectures": {"net": {"timm": "test_resnet"}},
    "start_with": ["net"],
    "parameters": {"lr": {"kind": "float", "low": 1e-4, "high": 1e-2, "log": True, "default": 1e-3}},
}
RECIPE = {"name": "own", "selection": {"kind": "soft_vote", "members": 3}}
CARD = {"name": "own", "source": {"kind": "folder"}, "group": "none"}
MEMBER = "members/trial-0-fold-1.safetensors"


@dataclass(frozen=True)
class Place:
    """A folder for bad input, and good things to spoil."""

    folder: Path
    request: pytest.FixtureRequest

    def yaml(self, content: dict, name: str = "mine.yaml", **changes) -> Path:
        path = self.folder / name
        path.write_text(yaml.safe_dump({**content, **changes}))
        return path

    def study(self, *settings: str, **changes) -> Callable[[], object]:
        path = self.yaml(STUDY, **changes)
        return lambda: read_plan(path, settings=settings)

    def space(self, section: str = "parameters", **parameters) -> Callable[[], object]:
        path = self.yaml({**SPACE, section: {**SPACE.get(section, {}), **parameters}}, "space.yaml")
        return lambda: read_space(str(path), self.folder)

    def table(self, rows, **fields) -> Callable[[], object]:
        """Prepare these rows; each has an image."""
        folder = write_table(self.folder / "data", rows)
        split = {"split": "split"} if any(entry["split"] for entry in rows) else {}
        columns = {**split, **fields.pop("columns", {})}
        return lambda: prepare(card_of(folder, columns=columns, **fields), root=self.folder / "stores")

    def bundle(self) -> Path:
        return self.request.getfixturevalue("trained_bundle")

    def predictor(self):
        return consilia.load(self.request.getfixturevalue("trained").bundle, device="cpu")

    def plan(self):
        return read_plan(self.request.getfixturevalue("study_file"))


@pytest.fixture
def place(tmp_path, monkeypatch, request) -> Place:
    monkeypatch.chdir(tmp_path)
    return Place(tmp_path, request)


CASES = []


def case(error: type[Exception], *says: str):
    """Register a builder: it spoils something and returns the call that must raise `error` with all of `says`."""

    def register(build):
        CASES.append(pytest.param(build, error, says, id=build.__name__.replace("_", " ")))
        return build

    return register


# --- files that are missing or empty


@case(PlanError, "mine.yaml", "does not exist")
def missing_study_file(place):
    return lambda: read_plan(place.folder / "mine.yaml")


@case(PlanError, "data/cards has no 'phantom'", "Did you mean 'phantoms'?", "./phantom.yaml")
def missing_card(place):
    return lambda: read_card("phantom")


@case(PlanError, "search_spaces has no 'tinny'", "'tiny'")
def missing_space(place):
    return place.study(spaces=["tinny"])


@case(PlanError, "ensembles has no 'softvote'", "'soft_vote'")
def missing_recipe(place):
    return place.study(ensemble="softvote")


@case(PlanError, "clusters/big.yaml", "does not exist", "a name (without .yaml)")
def missing_profile_file(place):
    return place.study(cluster="clusters/big.yaml")


@case(DataError, "'pneumoniamnist'", "absent.npz", "https://medmnist.com", "pneumoniamnist.npz", "--set path=FILE")
def missing_archive(place):
    card = read_card("pneumoniamnist", settings=["path=absent.npz"])
    return lambda: prepare(card, root=place.folder / "stores")


@case(DataError, "'phantoms' has no path", "--set path=DIR", "--set data.path=DIR")
def data_whose_place_was_not_said(place):
    return lambda: prepare(read_card("phantoms"), root=place.folder / "stores")


@case(DataError, "metadata.csv", "does not exist")
def folder_without_its_table(place):
    (place.folder / "data").mkdir()
    return lambda: prepare(card_of(place.folder / "data"), root=place.folder / "stores")


@case(DataError, "images", "holds no images", "'own'")
def empty_folder(place):
    (place.folder / "images").mkdir()
    card = load("data/cards", CARD, DataCard, base=place.folder, overrides={"path": str(place.folder / "images")})
    return lambda: prepare(card, root=place.folder / "stores")


@case(DataError, "metadata.csv is empty")
def empty_table(place):
    write_table(place.folder / "data", [])
    (place.folder / "data" / "metadata.csv").write_bytes(b"")
    return lambda: prepare(card_of(place.folder / "data"), root=place.folder / "stores")


@case(DataError, "metadata.csv holds no images")
def table_without_rows(place):
    return place.table([])


@case(StudyError, "no study 'mine'", "Studies there: none", "--studies")
def missing_study(place):
    return lambda: find_study("mine", place.folder)


@case(BundleError, "nowhere", "holds no ensemble.json")
def missing_bundle(place):
    return lambda: consilia.load(place.folder / "nowhere")


@case(ReaderError, "absent.png", "does not exist")
def missing_image(place):
    return lambda: place.predictor().predict("absent.png")


# --- classes, labels, patients


@case(DataError, "metadata.csv", "two classes or more", "'a'")
def one_class_only(place):
    return place.table([row(number, "a", f"p{number}") for number in range(6)])


@case(DataError, "metadata.csv", "class 'c' has 1 test images but none to train on")
def class_in_test_that_is_not_in_train(place):
    rows = [entry | {"split": "train"} for entry in balanced()]
    return place.table([*rows, row(99, "c", "new", "test")])


@case(DataError, "metadata.csv has no column 'finding'", "source.columns.label")
def label_column_that_is_absent(place):
    return place.table(balanced(), columns={"label": "finding"})


@case(DataError, "did you mean 'label'?")
def label_column_with_a_slip(place):
    return place.table(balanced(), columns={"label": "lable"})


@case(DataError, "metadata.csv, row 26 (000.png)", "stands in row 2")
def duplicate_paths(place):
    return place.table([*balanced(), row(0, "a", "000")])


@case(DataError, "000.png (patient '000')", "001.png (patient '000')", "the test split parts them", "on_leak: keep")
def patient_in_two_splits(place):
    rows = [entry | {"split": "train"} for entry in balanced()]
    rows[1]["split"] = "test"
    store = place.table(rows)()
    return lambda: make_folds(store, k=3, seed=0, test="none", test_fraction=0.2)


@case(DataError, "class 'b' has 2 patients", "k = 3", "Lower k to 2")
def k_larger_than_the_patients_of_a_class(place):
    many = [row(number, "a", f"p{number}") for number in range(6)]
    store = place.table([*many, row(90, "b", "x"), row(91, "b", "x"), row(92, "b", "y")])()
    return lambda: make_folds(store, k=3, seed=0, test="none", test_fraction=0.2)


@case(DataError, "metadata.csv, row 4", "label 'noduel'", "did you mean 'nodule'?")
def label_outside_the_classes(place):
    rows = balanced()
    rows[2]["label"] = "noduel"
    return place.table(rows, classes=("a", "b", "nodule"))


@case(DataError, "metadata.csv, row 3", "UTF-8", "byte")
def table_that_is_not_utf_8(place):
    folder = write_table(place.folder / "data", balanced())
    table = folder / "metadata.csv"
    lines = table.read_bytes().split(b"\n")
    lines[2] = lines[2].replace(b"a", "ä".encode("latin-1"))
    table.write_bytes(b"\n".join(lines))
    return lambda: prepare(card_of(folder), root=place.folder / "stores")


@case(DataError, "metadata.csv, row 2", "below the images folder", "'../secret.png'")
def table_that_leads_out_of_its_folder(place):
    folder = write_table(place.folder / "data", [row(0, "a", "0") | {"path": "../secret.png"}], images=False)
    return lambda: prepare(card_of(folder), root=place.folder / "stores")


# --- images


def _spoil(place, content: Callable[[bytes], bytes]) -> Path:
    """Write an image whose bytes are changed."""
    path = place.folder / "scan.png"
    Image.fromarray(picture(1, height=64, width=64)).save(path)
    path.write_bytes(content(path.read_bytes()))
    return path


@case(ReaderError, "scan.png", "neither DICOM, PNG, JPEG")
def unreadable_image(place):
    path = _spoil(place, lambda _: b"not an image, though its name says so")
    return lambda: read_image(path, Reading(size=8, channels=1))


@case(ReaderError, "scan.png", "truncated")
def truncated_image(place):
    path = _spoil(place, lambda content: content[: len(content) // 2])
    return lambda: read_image(path, Reading(size=8, channels=1))


@case(ReaderError, "scan.png", "0 bytes")
def image_of_0_bytes(place):
    path = _spoil(place, lambda _: b"")
    return lambda: read_image(path, Reading(size=8, channels=1))


@case(DataError, "1 of 24 images", "005.png", "0 bytes", "max_bad")
def more_unreadable_images_than_the_card_allows(place):
    call = place.table(balanced())
    (place.folder / "data" / "005.png").write_bytes(b"")
    return call


@case(ReaderError, "notes.txt", "neither DICOM, PNG, JPEG")
def text_file_as_an_image(place):
    (place.folder / "notes.txt").write_text("a report")
    return lambda: place.predictor().predict(place.folder / "notes.txt")


@case(ReaderError, "reports", "this is a folder")
def folder_as_an_image(place):
    (place.folder / "reports").mkdir()
    return lambda: place.predictor().predict(place.folder / "reports")


@case(ReaderError, "image 0", "[0, 1]", "-1 ... 255")
def float_array_outside_0_to_1(place):
    return lambda: place.predictor().predict(np.linspace(-1, 255, 400).reshape(20, 20))


@case(ReaderError, "image 0", "[0, 1]", "nan")
def float_array_with_nan(place):
    return lambda: place.predictor().predict(np.full((20, 20), np.nan))


@case(ReaderError, "(2, 20, 20, 5)", "1 or 3 channels last")
def array_of_four_axes_with_other_channels(place):
    return lambda: place.predictor().predict(np.zeros((2, 20, 20, 5), np.uint8))


@case(ReaderError, "image 1", "(2, 20, 20, 3)")
def stack_in_a_list_of_images(place):
    images = [np.zeros((20, 20), np.uint8), np.zeros((2, 20, 20, 3), np.uint8)]
    return lambda: place.predictor().predict(images)


@case(ReaderError, "image 0", "int64")
def array_of_another_type(place):
    return lambda: place.predictor().predict(np.zeros((20, 20), np.int64))


@case(ReaderError, "must be a path, a numpy array or a PIL image", "int")
def number_as_an_image(place):
    return lambda: place.predictor().predict(7)


# --- keys of every YAML


@case(PlanError, "mine.yaml", "unknown key 'trainig'", "Did you mean 'training'?")
def unknown_key_in_a_study(place):
    return place.study(trainig={"epochs": 3})


@case(PlanError, "mine.yaml", "unknown key 'training.epoch'", "'epochs'")
def unknown_key_in_a_section_of_a_study(place):
    return place.study(training={"epoch": 3})


@case(PlanError, "phantoms.yaml", "set from outside", "unknown key 'sise'", "'size'")
def unknown_key_of_a_card_in_a_study(place):
    return place.study(data={"card": "phantoms", "sise": 32})


@case(PlanError, "card.yaml", "unknown key 'licens'", "'licence'")
def unknown_key_in_a_card(place):
    path = place.yaml(CARD, "card.yaml", licens="CC0")
    return lambda: read_card(str(path))


@case(PlanError, "space.yaml", "unknown key 'parameters.lr.hihg'", "'high'")
def unknown_key_in_a_space(place):
    return place.space(lr={**SPACE["parameters"]["lr"], "hihg": 1})


@case(PlanError, "recipe.yaml", "unknown key 'selection.member'", "'members'")
def unknown_key_in_a_recipe(place):
    path = place.yaml(RECIPE, "recipe.yaml", selection={"kind": "soft_vote", "member": 2})
    return lambda: load("ensembles", str(path), EnsembleRecipe, base=place.folder)


@case(PlanError, "profile.yaml", "unknown key 'max_slot'", "'max_slots'")
def unknown_key_in_a_profile(place):
    path = place.yaml({"name": "own", "max_slot": 2}, "profile.yaml")
    return lambda: load("cluster", str(path), ClusterProfile, base=place.folder)


@case(PlanError, "mine.yaml, line 3", "'seed' stands twice")
def key_that_stands_twice(place):
    (place.folder / "mine.yaml").write_text("name: mine\nseed: 1\nseed: 2\n")
    return lambda: read_plan(place.folder / "mine.yaml")


@case(PlanError, "mine.yaml", "cannot be read", "utf-8")
def study_that_is_not_utf_8(place):
    (place.folder / "mine.yaml").write_bytes("name: größe\n".encode("latin-1"))
    return lambda: read_plan(place.folder / "mine.yaml")


@case(PlanError, "mine.yaml", "'trainin'", "Did you mean 'training'?")
def unknown_key_of_set(place):
    return place.study("trainin.epochs=3")


@case(PlanError, "--set", "key=value", "'epochs'")
def set_without_a_value(place):
    return lambda: parse_settings(["epochs"])


# --- spaces


@case(PlanError, "space.yaml: architectures.net.timm", "'resnet1'", "did you mean")
def unknown_timm_name(place):
    path = place.yaml(SPACE, "space.yaml", architectures={"net": {"timm": "resnet1"}})
    return lambda: read_space(str(path), place.folder)


@case(PlanError, "own: architectures.net", "'block_sizes'")
def unknown_timm_argument(place):
    architecture = {"timm": "test_resnet", "arguments": {"block_sizes": 3}}
    path = place.yaml(SPACE, "space.yaml", architectures={"net": architecture})
    return place.study(spaces=[str(path)])


@case(PlanError, "space.yaml: parameters.mixup", "the range is empty", "low=1.0, high=0.5")
def empty_range(place):
    return place.space(mixup={"kind": "float", "low": 1, "high": 0.5, "default": 1})


@case(PlanError, "space.yaml: parameters.lr", "low > 0 must hold", "low=0")
def log_range_through_0(place):
    return place.space(lr={"kind": "float", "low": 0, "high": 1, "log": True, "default": 0.1})


@case(PlanError, "space.yaml: parameters.weight_decai", "Did you mean 'weight_decay'?")
def unknown_hyperparameter(place):
    return place.space(weight_decai={"kind": "float", "low": 0, "high": 1, "default": 0.1})


@case(PlanError, "space.yaml: from_scratch.mixup", "range reaches -1.0")
def range_that_leaves_what_a_hyperparameter_can_be(place):
    return place.space("from_scratch", mixup={"kind": "float", "low": -1, "high": 1, "default": 0})


@case(PlanError, "--set", "unknown key 'lrr'", "Did you mean 'lr'?")
def unknown_hyperparameter_of_set(place):
    path = place.yaml(STUDY)
    return lambda: read_single_plan(path, settings=["lrr=0.1"])


# --- study folders and disks


@case(StudyError, "tiny was made by another plan", "folds.k: 2 in the study folder, 3 now", "--set name=")
def study_folder_of_another_study(place):
    plan = place.plan()
    with claim_folder(plan, place.folder):
        pass
    other = plan.model_copy(update={"folds": plan.folds.model_copy(update={"k": 3})})
    return lambda: claim_folder(other, place.folder).__enter__()


@case(StudyError, "tiny exists but does not hold a study.yaml", "--studies")
def folder_that_is_no_study(place):
    (place.folder / "tiny").mkdir()
    (place.folder / "tiny" / "thesis.txt").write_text("mine")
    return lambda: claim_folder(place.plan(), place.folder).__enter__()


@case(StudyError, "may need", "0.0 GB are free", "search.keep_weights")
def disk_too_small_for_a_study(place):
    study = OpenStudy(plan=place.plan(), folder=StudyFolder(place.folder), stores=place.folder)
    return lambda: check_disk(study, n_slots=2, largest_network=1, free_bytes=lambda _: 1000)


@case(DataError, "stores", "needs", "0.0 MB are free", "size")
def disk_too_small_for_a_store(place):
    folder = write_table(place.folder / "data", balanced())
    return lambda: prepare(card_of(folder), root=place.folder / "stores", free_space=lambda _: 10)


# --- bundles


def _sign(bundle: Path, change: Callable[[dict], object]) -> Path:
    """Change the bundle's document as someone would who can compute its digest."""
    content = json.loads((bundle / "ensemble.json").read_text())
    change(content)
    content.pop("digest")
    (bundle / "ensemble.json").write_text(json.dumps({**content, "digest": sha256_of_json(content)}))
    return bundle


@case(BundleError, "trial-0-fold-1.safetensors", "has been changed")
def bundle_with_a_changed_byte(place):
    path = place.bundle() / MEMBER
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    return lambda: consilia.load(place.folder / "bundle")


@case(BundleError, MEMBER, "missing")
def bundle_without_a_member(place):
    (place.bundle() / MEMBER).unlink()
    return lambda: consilia.load(place.folder / "bundle")


@case(BundleError, "bundle was written by consilia 9.0.0", "schema version 99", "Install consilia 9.0.0 or later")
def bundle_of_a_newer_schema(place):
    bundle = _sign(place.bundle(), lambda content: content.update(schema_version=99, consilia="9.0.0"))
    return lambda: consilia.load(bundle)


@case(BundleError, "'../outside.safetensors' leads out of it")
def bundle_with_a_path_that_leaves_it(place):
    bundle = place.bundle()
    (bundle / MEMBER).rename(place.folder / "outside.safetensors")

    def lead_out(content):
        content["files"]["../outside.safetensors"] = content["files"].pop(MEMBER)
        content["members"][0]["networks"][1]["file"] = "../outside.safetensors"

    _sign(bundle, lead_out)
    return lambda: consilia.load(bundle)


# --- the tests


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(("build", "error", "says"), CASES)
def test_bad_input_is_named_and_nothing_is_lost(build, error, says, place):
    call = build(place)
    before = contents(place.folder)
    with pytest.raises(error) as caught:
        call()
    assert type(caught.value) is error
    assert caught.value.exit_code == 2
    for part in says:
        assert part in str(caught.value)
    assert len(str(caught.value).splitlines()) <= 4
    after = contents(place.folder)
    assert {path: after.get(path) for path in before} == before
    assert all(_is_state(Path(path)) for path in after.keys() - before.keys())


def _is_state(path: Path) -> bool:
    """Say whether a file is the lock, or what a prepare keeps to go on from: nothing that looks finished."""
    return path.name == ".lock" or path.parent.name.startswith(".partial-")


def alpha() -> Image.Image:
    """White on the left, transparent white on the right."""
    pixels = np.full((8, 8, 4), 255, np.uint8)
    pixels[:, 4:, 3] = 0
    return Image.fromarray(pixels)


def palette() -> Image.Image:
    """Index 3 on the left and 1 on the right, which the palette shows as light and dark grey."""
    image = Image.fromarray(np.where(np.arange(8) < 4, 3, 1).astype(np.uint8)[None].repeat(8, axis=0), "P")
    image.putpalette([0, 0, 0, 20, 20, 20, 0, 0, 0, 200, 200, 200])
    return image


def wide() -> Image.Image:
    """16 bits: half of the range on the left, all of it on the right."""
    return Image.fromarray(np.where(np.arange(8) < 4, 32896, 65535).astype(np.uint16)[None].repeat(8, axis=0))


@pytest.mark.parametrize(
    ("image", "mode", "left", "right"), [(alpha, "RGBA", 255, 0), (palette, "P", 200, 20), (wide, "I;16", 128, 255)]
)
@pytest.mark.filterwarnings("ignore:'mode' parameter is deprecated:DeprecationWarning")
def test_an_unusual_image_is_read_for_what_it_shows(image, mode, left, right, place):
    image().save(place.folder / "unusual.png")
    with Image.open(place.folder / "unusual.png") as written:
        assert written.mode == mode
    pixels = read_image(place.folder / "unusual.png", Reading(size=8, channels=1)).pixels
    np.testing.assert_array_equal(pixels[:, :, 0], np.where(np.arange(8) < 4, left, right)[None].repeat(8, axis=0))


COMMANDS = [
    (["search", "absent.yaml"], ["absent.yaml"]),
    (["search", "mine.yaml", "--set", "trainin.epochs=2"], ["mine.yaml", "trainin"]),
    (["search", "mine.yaml", "--set", "epochs"], ["--set", "epochs"]),
    (["search", "mine.yaml", "--set", "spaces=[tinny]"], ["tinny", "'tiny'"]),
    (["train", "mine.yaml", "--set", "lrr=1"], ["lrr", "'lr'"]),
    (["train", "mine.yaml"], ["images does not exist", "data.path"]),
    (["train", "mine.yaml", "--architecture", "test_resnit"], ["test_resnit", "'test_resnet'"]),
    (["data", "prepare", "phantom"], ["phantom", "'phantoms'"]),
    (["data", "prepare", "phantoms"], ["'phantoms' has no path"]),
    (["data", "phantoms", "full"], ["full already holds something else"]),
    (["trials", "nothing"], ["nothing", "--studies"]),
    (["ensemble", "nothing"], ["nothing", "--studies"]),
    (["predict", "full", "a.png"], ["full", "ensemble.json"]),
    (["evaluate", "full", "phantomz"], ["phantomz"]),
    (["status", "job", "--address", "head:8265"], ["--address", "http://head:8265", "'head:8265'"]),
    (["search"], ["STUDY.yaml", "--help"]),
    (["serch", "mine.yaml"], ["serch"]),
    (["search", "mine.yaml", "--epochs", "3"], ["--epochs"]),
]


@pytest.fixture
def crowded(place) -> Place:
    """A study file whose data are missing, and a folder that holds something else."""
    place.yaml(STUDY)
    (place.folder / "full").mkdir()
    (place.folder / "full" / "thesis.txt").write_text("mine")
    return place


@pytest.mark.parametrize(("arguments", "says"), COMMANDS, ids=[" ".join(arguments) for arguments, _ in COMMANDS])
def test_a_command_answers_bad_input_in_a_few_lines_with_exit_code_2(arguments, says, crowded, capsys):
    assert run(arguments) == 2
    printed = capsys.readouterr()
    for part in says:
        assert part in printed.err
    assert printed.err.startswith("consilia: ")
    assert 1 <= len(printed.err.splitlines()) <= 4
    assert "Traceback" not in printed.err
    assert "defect" not in printed.err


@pytest.mark.parametrize("arguments", [["--debug", "trials", "nothing"], ["trials", "nothing", "--debug"]])
def test_debug_shows_the_traceback_wherever_it_stands(arguments, crowded, capsys):
    assert run(arguments) == 2
    printed = capsys.readouterr().err
    assert printed.startswith("Traceback")
    assert "StudyError: There is no study 'nothing'" in printed


def test_a_command_without_its_command_shows_the_help(capsys):
    assert run([]) == 2
    printed = capsys.readouterr()
    assert "Commands" in printed.out
    assert "A command must be named." in printed.err


def test_a_file_system_that_refuses_is_a_failed_run_in_one_line(crowded, capsys):
    (crowded.folder / "file").touch()
    assert run(["data", "phantoms", "file/below"]) == 1
    printed = capsys.readouterr().err
    assert "file" in printed
    assert len(printed.splitlines()) == 1


def test_ctrl_c_is_answered_with_its_own_exit_code(crowded, capsys, monkeypatch):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("consilia.data.phantoms.draw_image", interrupt)
    assert run(["data", "phantoms", "new"]) == 130
    assert capsys.readouterr().err == "consilia: Stopped by Ctrl-C.\n"
    assert not (crowded.folder / "new").exists()
