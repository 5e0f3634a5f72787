"""`export dicom`: reports and heat maps that other programs read, beside the image that they are about."""

import shutil
import subprocess
from functools import partial

import highdicom
import numpy as np
import pytest
from PIL import Image
from pydicom import dcmread
from pydicom.uid import generate_uid

import consilia
from consilia.cli.app import run
from consilia.config.records import OodVerdict, Prediction
from consilia.export.dicom_files import DicomResults
from dicom_encodings import write_dicom

PATIENT = {
    "PatientID": "4711",
    "PatientName": "Müller^Jürgen",
    "PatientBirthDate": "19500102",
    "PatientSex": "M",
    "PatientAge": "076Y",
    "AccessionNumber": "A1",
    "StudyID": "S1",
    "StudyDate": "20260203",
    "StudyTime": "101112",
    "ReferringPhysicianName": "Grün^Eva",
}
PROBABILITIES = {"clear": 0.9, "nodule": 0.1}
STUDY = "2.25.1234567890"


def write_scan(path, pixels, **tags):
    uids = {"StudyInstanceUID": STUDY, "SeriesInstanceUID": "2.25.98765", "SOPInstanceUID": generate_uid(prefix=None)}
    return write_dicom(path, pixels, **{"SpecificCharacterSet": "ISO_IR 100", **PATIENT, **uids, **tags})


@pytest.fixture
def scans(phantoms, tmp_path):
    """Two phantoms as DICOM files of one study."""
    paths = []
    for number, file in enumerate(sorted(phantoms.rglob("*.png"))[:2]):
        with Image.open(file) as image:
            paths.append(write_scan(tmp_path / f"scan {number}.dcm", np.asarray(image.convert("L"))))
    return paths


@pytest.fixture
def exported(trained, scans, tmp_path):
    """The files of both scans: reports, then heat maps."""
    done = consilia.export_dicom(trained.bundle, scans, tmp_path / "out", on_unknown_kind="as_displayed")
    assert (done.n_images, done.errors) == (2, ())
    return sorted((tmp_path / "out").glob("*-report.dcm")), sorted((tmp_path / "out").glob("*-heat-map.dcm"))


def evaluations(report) -> list[tuple[str, str]]:
    (group,) = report.content.get_image_measurement_groups()
    return [(each.name.value, each.value.meaning) for each in group.get_qualitative_evaluations()]


def texts(report, term) -> list[str]:
    (group,) = report.content.get_image_measurement_groups()
    items = [item for item in group[0].ContentSequence if item.ValueType == "TEXT"]
    return [item.TextValue for item in items if item.ConceptNameCodeSequence[0].CodeValue == term]


def test_a_report_read_by_highdicom_says_what_the_ensemble_says(trained, scans, exported):
    predictions = consilia.load(trained.bundle).predict(scans, on_unknown_kind="as_displayed")
    for file, scan, expected in zip(exported[0], scans, predictions, strict=True):
        report = highdicom.sr.srread(file)
        (group,) = report.content.get_image_measurement_groups()
        found = {each.name.meaning: each.value for each in group.get_measurements()}
        assert found == {
            f"Probability of {name}": pytest.approx(value, abs=1e-6) for name, value in expected.probabilities.items()
        }
        said = evaluations(report)
        assert ("LABEL", expected.label) in said
        assert [value for name, value in said if name == "IN_SET"] == list(expected.prediction_set)
        assert ("UNUSUAL", expected.unusual.state) in said
        assert ("REVIEW", "asked for" if expected.review else "not asked for") in said
        assert texts(report, "REASON") == list(expected.review)
        assert "Not for diagnostic use" in texts(report, "LIMITATION")[0]
        (source,) = group.source_images
        assert source.referenced_sop_instance_uid == dcmread(scan).SOPInstanceUID
        assert (report.CompletionFlag, report.VerificationFlag) == ("COMPLETE", "UNVERIFIED")


def test_the_observer_is_the_bundle_and_another_bundle_is_another(trained, built_bundle, exported, scans, tmp_path):
    digest = consilia.load(trained.bundle).document.digest

    def observer(file):
        return highdicom.sr.srread(file).content.get_observer_contexts()[0].observer_identifying_attributes

    first, second = map(observer, exported[0])
    assert first.uid == second.uid
    assert first.serial_number == digest == dcmread(exported[1][0]).DeviceSerialNumber
    consilia.export_dicom(built_bundle, scans[:1], tmp_path / "other", on_unknown_kind="as_displayed")
    assert observer(next((tmp_path / "other").glob("*-report.dcm"))).uid != first.uid


def test_a_heat_map_refers_to_its_image_and_bears_a_warning(scans, exported):
    for file, scan in zip(exported[1], scans, strict=True):
        capture = dcmread(file)
        (reference,) = capture.SourceImageSequence
        assert reference.ReferencedSOPInstanceUID == dcmread(scan).SOPInstanceUID
        assert capture.ImageType[:2] == ["DERIVED", "SECONDARY"]
        assert "ot for diagnostic use" in capture.SeriesDescription
        assert "ot for diagnostic use" in capture.DerivationDescription
        height, width, channels = capture.pixel_array.shape
        assert (width > height, channels) == (True, 3)
        footnote = capture.pixel_array[-18:].max(axis=2)
        assert (footnote > 128).any(axis=0).sum() > 200  # letters over most of the width


def test_results_lie_in_the_study_of_their_image_and_have_its_patient(scans, exported):
    for kind in exported:
        found = [dcmread(file) for file in kind]
        assert len({each.SeriesInstanceUID for each in found} | {"2.25.98765"}) == 2  # one, and not the image's own
        assert [each.InstanceNumber for each in found] == [1, 2]
        for each in found:
            assert each.StudyInstanceUID == STUDY
            assert {name: str(each[name].value) for name in PATIENT} == PATIENT


def test_a_second_export_is_another_observation(trained, scans, exported, tmp_path):
    consilia.export_dicom(trained.bundle, scans, tmp_path / "again", on_unknown_kind="as_displayed")
    files = [*exported[0], *exported[1], *(tmp_path / "again").iterdir()]
    assert len({dcmread(file).SOPInstanceUID for file in files}) == len(files) == 8


@pytest.mark.skipif(shutil.which("dciodvfy") is None, reason="dciodvfy (Debian: dicom3tools) is not installed")
def test_dciodvfy_finds_no_error(exported):
    for file in (*exported[0], *exported[1]):
        done = subprocess.run(["dciodvfy", str(file)], capture_output=True, text=True)
        assert [line for line in (done.stdout + done.stderr).splitlines() if line.startswith("Error")] == []


def test_an_image_without_results_drops_no_other_and_the_exit_code_is_1(trained, scans, tmp_path, capsys):
    picture = tmp_path / "picture.png"
    Image.new("L", (40, 40)).save(picture)
    (tmp_path / "broken.dcm").write_bytes(b"\0" * 128 + b"DICM broken")
    nameless = write_scan(tmp_path / "nameless.dcm", np.zeros((40, 40), np.uint8), StudyInstanceUID="")
    odd = write_scan(tmp_path / "odd.dcm", np.zeros((40, 40), np.uint8), PatientSex="X")
    bad = {
        picture: "results are written beside DICOM images, but this file is none",
        tmp_path / "broken.dcm": "",
        tmp_path / "missing.dcm": "does not exist",
        nameless: "its StudyInstanceUID is none",
        odd: "its header has values that results cannot take over",
    }
    paths = map(str, (scans[0], *bad, scans[1]))
    out = tmp_path / "out"
    ask = partial(run, ["export", "dicom", str(trained.bundle), *paths, "--to", str(out)])
    assert run([*ask.args[0], "--on-unknown-kind", "as_displayed"]) == 1
    printed = capsys.readouterr()
    assert "of 2 images each; not of 5" in printed.out
    for path, message in bad.items():
        (line,) = [line for line in printed.err.splitlines() if line.startswith(f"{path}:")]
        assert message in line
    kinds = ("report", "heat-map")
    assert {path.name for path in out.iterdir()} == {
        f"000{n}-scan_{n - 1}-{kind}.dcm" for n in (1, 2) for kind in kinds
    }
    assert ask() == 2
    assert "must be a new or an empty folder" in capsys.readouterr().err


def test_a_frame_is_referred_to_by_its_number(predictor, tmp_path):
    path = write_scan(tmp_path / "frames.dcm", np.zeros((3, 40, 40), np.uint8))
    said = Prediction(
        label="clear", confidence=0.9, probabilities={"clear": 0.9, "nodule": 0.1}, without_set="It is so."
    )
    picture = np.zeros((40, 90, 3), np.uint8)
    report, heat_map = DicomResults(tmp_path / "out", predictor.document).write(path, 1, said, picture)
    (group,) = highdicom.sr.srread(report).content.get_image_measurement_groups()
    assert group.source_images[0].referenced_frame_numbers == [2]
    assert dcmread(heat_map).SourceImageSequence[0].ReferencedFrameNumber == 2


def test_what_a_prediction_does_not_have_is_said(predictor, tmp_path):
    path = write_scan(tmp_path / "scan.dcm", np.zeros((40, 40), np.uint8))
    write = partial(DicomResults(tmp_path / "out", predictor.document).write, path, None)
    said = Prediction(
        label="clear", confidence=0.9, probabilities={"clear": 0.9, "nodule": 0.1}, without_set="It is so."
    )
    report = highdicom.sr.srread(write(said, np.zeros((40, 90, 3), np.uint8))[0])
    assert texts(report, "NO_SET") == ["It is so."]
    assert ("UNUSUAL", "not checked") in evaluations(report)
    rejected = OodVerdict(state="rejected", p_value=0.0, part="layout")
    empty = Prediction(
        label="clear",
        confidence=0.9,
        probabilities={"clear": 0.9},
        prediction_set=(),
        unusual=rejected,
        review=("why",),
    )
    report = highdicom.sr.srread(write(empty, np.zeros((40, 90, 3), np.uint8))[0])
    assert "The set is empty" in texts(report, "NO_SET")[0]
    assert {("UNUSUAL", "rejected"), ("REVIEW", "asked for")} <= set(evaluations(report))
