"""What the API says of images: the numbers of `consilia predict`, and a sentence wherever it refuses."""

import csv
import io
import json
import re
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from consilia.bundle.card import model_card
from consilia.cli.app import run
from consilia.decision.ood.verdict import reasons
from consilia.predict.explain import explain
from consilia.predict.images import Frame
from consilia.predict.predictor import EnsemblePredictor
from consilia.serve.app import PAGE
from consilia.serve.routes import EXPLANATION
from consilia.serve.uploads import Limits
from dicom_files import write_ct


def predict(client, body):
    answer = client.post("/v1/predict", files=body)
    assert answer.status_code == 200, answer.text
    return answer.json()["images"]


@pytest.fixture
def each_frame(predictor):
    """The predictor, as if training had taken each frame of a file."""
    document = predictor.document
    reading = document.reading.model_copy(update={"frames": "each"})
    return replace(predictor, document=document.model_copy(update={"reading": reading}))


@pytest.fixture
def stack(tmp_path):
    """A TIFF of three frames."""
    frames = [
        Image.fromarray(np.random.default_rng(number).integers(0, 256, (40, 36), dtype=np.uint8)) for number in range(3)
    ]
    frames[0].save(tmp_path / "stack.tif", save_all=True, append_images=frames[1:])
    return tmp_path / "stack.tif"


def test_numbers_equal_those_of_the_command_line_bit_for_bit(asked, trained, predictor, pictures, sent, tmp_path):
    scan = np.random.default_rng(0).integers(-900, 900, (40, 40))
    files = [*pictures, write_ct(tmp_path / "scan.dcm", scan, WindowCenter=0, WindowWidth=1500)]
    out = tmp_path / "predictions.csv"
    options = ("--device", "cpu", "--on-unknown-kind", "as_displayed", "--out", str(out))
    assert run(["predict", str(trained.bundle), *map(str, files), *options]) == 0
    with asked(on_unknown_kind="as_displayed") as client:
        images = predict(client, sent(*files))
    with out.open(newline="", encoding="utf-8") as file:
        for row, image in zip(csv.DictReader(file), images, strict=True):
            assert row["label"] == image["label"]
            assert float(row["confidence"]) == image["confidence"]
            assert {name: float(row[f"probability_{name}"]) for name in predictor.classes} == image["probabilities"]
            assert row["review"] == "; ".join(image["review"])
            assert row["prediction_set"] == ";".join(image["prediction_set"])
            unusual = image["unusual"]
            assert (row["unusual_p_value"] or None) == (unusual and repr(unusual["p_value"]))


def test_a_cpu_predicts_two_batches_at_once_each_with_half_of_its_threads(
    asked, predictor, pictures, sent, monkeypatch
):
    expected = [predictor.predict(path)[0].confidence for path in pictures[:2]]
    meeting, told, judge = threading.Barrier(2, timeout=60), [], EnsemblePredictor.judge

    def met(self, images):
        meeting.wait()  # for the other batch
        return judge(self, images)

    monkeypatch.setattr(EnsemblePredictor, "judge", met)
    monkeypatch.setattr("consilia.serve.app.torch.get_num_threads", lambda: 4)
    monkeypatch.setattr("consilia.serve.app.set_threads", told.append)
    with asked() as client, ThreadPoolExecutor(2) as clients:
        found = list(clients.map(lambda path: predict(client, sent(path))[0]["confidence"], pictures[:2]))
    assert found == expected
    assert told[-1] == 2
    assert set(told) <= {2, 4}  # the first may have come when nothing else was there


def test_an_image_says_all_that_a_prediction_says_and_whose_it_is(client, trained, predictor, pictures, sent):
    (image,) = predict(client, sent(pictures[0]))
    expected = predictor.predict(pictures[0])[0]
    assert image["name"] == "a.png"
    assert image["frame"] is None
    assert tuple(image["review"]) == expected.review
    assert image["without_set"] == expected.without_set
    assert image["bundle"] == json.loads((trained.bundle / "ensemble.json").read_text())["digest"]
    if expected.unusual is not None:
        assert tuple(image["unusual"]["reasons"]) == reasons(expected.unusual)


def test_a_broken_image_is_an_error_for_itself_and_named_as_it_was_sent(client, predictor, pictures, sent, tmp_path):
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no image")
    first, error, last = predict(client, sent(pictures[0], broken, pictures[1]))
    sentence = "the file is neither DICOM, PNG, JPEG, TIFF, WebP nor BMP, or its header is damaged."
    assert error["error"] == f"broken.png: {sentence}"
    expected = predictor.predict(pictures[:2])
    assert [first["confidence"], last["confidence"]] == [each.confidence for each in expected]


def test_a_name_makes_a_file_dicom_as_it_does_on_the_command_line(client, predictor, sent, tmp_path):
    nameless = tmp_path / "scan.DCM"
    nameless.write_bytes(b"neither the mark of DICOM nor an image")
    (image,) = predict(client, sent(nameless))
    (expected,) = predictor.iterate(nameless)
    assert image["error"] == str(expected).replace(str(nameless), "scan.DCM")
    assert "this is a DICOM file" in image["error"]


def test_an_image_of_too_many_pixels_is_an_error_for_itself(client, pictures, sent, tmp_path):
    Image.new("1", (16_000, 8_000)).save(tmp_path / "large.png")
    large, good = predict(client, sent(tmp_path / "large.png", pictures[0]))
    assert "80,000,000 pixels at most" in large["error"]
    assert "error" not in good


def test_each_frame_is_an_image_where_training_took_each(asked, each_frame, stack, pictures, sent):
    with asked(each_frame) as client:
        images = predict(client, sent(stack, pictures[0]))
        assert [image["name"] for image in images] == ["stack.tif[0]", "stack.tif[1]", "stack.tif[2]", "a.png"]
        assert [image["frame"] for image in images] == [0, 1, 2, None]
        expected = each_frame.predict([stack, pictures[0]])
        assert [image["confidence"] for image in images] == [each.confidence for each in expected]
        answer = client.post("/v1/explain", files=sent(stack, field="file"), data={"frame": "2"})
        ((_, found),) = explain(each_frame, [Frame(stack, 2)])
        assert json.loads(answer.headers[EXPLANATION])["gain"] == found.gain
        answer = client.post("/v1/explain", files=sent(stack, field="file"), data={"frame": "3"})
        assert answer.status_code == 422
        assert "frame must be one of the file's 3 images" in answer.json()["error"]


def test_a_heat_map_is_a_png_and_says_in_words_what_it_shows(client, predictor, pictures, sent):
    label = predictor.classes[-1]
    answer = client.post("/v1/explain", files=sent(pictures[0], field="file"), data={"label": label})
    assert answer.headers["content-type"] == "image/png"
    assert Image.open(io.BytesIO(answer.content)).format == "PNG"
    ((_, found),) = explain(predictor, pictures[0], label=label)
    said = json.loads(answer.headers[EXPLANATION])
    assert said["label"] == label
    assert (said["gain"], said["probability"]) == (found.gain, found.probability)
    assert said["says_nothing_because"] == found.says_nothing_because


def test_a_class_that_is_not_one_cannot_be_explained(client, predictor, pictures, sent):
    answer = client.post("/v1/explain", files=sent(pictures[0], field="file"), data={"label": "flu"})
    assert answer.status_code == 422
    assert answer.json() == {"error": f"label must be one of {', '.join(predictor.classes)}, but is 'flu'."}


def test_one_readable_image_is_explained_at_a_time(client, pictures, sent, tmp_path):
    assert client.post("/v1/explain", files=sent(*pictures)).status_code == 422
    (tmp_path / "broken.png").write_bytes(b"no image")
    answer = client.post("/v1/explain", files=sent(tmp_path / "broken.png"))
    assert answer.status_code == 422
    assert answer.json()["error"].startswith("broken.png: the file is neither")


def test_a_request_beyond_the_limit_of_bytes_is_refused_whatever_its_header_promises(asked, pictures, sent):
    with asked(limits=Limits(bytes=1000)) as client:
        answer = client.post("/v1/predict", files=sent(*pictures))
        assert answer.status_code == 413
        assert answer.json() == {"error": "A request may have 1,000 bytes at most. Send fewer images at a time."}
        request = client.build_request("POST", "/v1/predict", files=sent(*pictures))
        body, kind = request.read(), request.headers["content-type"]
        chunks = (body[start : start + 500] for start in range(0, len(body), 500))  # sent without a length
        assert client.post("/v1/predict", content=chunks, headers={"content-type": kind}).status_code == 413


def test_a_request_of_too_many_images_is_refused_and_frames_count(asked, each_frame, pictures, stack, sent):
    with asked(each_frame, limits=Limits(images=2)) as client:
        answer = client.post("/v1/predict", files=sent(*pictures))
        assert answer.status_code == 413
        assert "2 images at most, but there are more files" in answer.json()["error"]
        answer = client.post("/v1/predict", files=sent(stack))
        assert answer.status_code == 413
        assert "2 images at most, but these files have 3" in answer.json()["error"]
        assert list(client.app.state.service.folder.iterdir()) == []


def test_a_full_queue_is_told_with_when_to_come_again(asked, pictures, sent):
    with asked(limits=Limits(images=2, waiting=2)) as client:
        client.app.state.service.batcher.n_waiting = 2
        for path in ("/v1/predict", "/v1/explain"):
            answer = client.post(path, files=sent(pictures[0]))
            assert answer.status_code == 503
            assert answer.headers["retry-after"] == "1"
            assert "2 images wait already" in answer.json()["error"]


@pytest.mark.parametrize(
    ("request_of", "sentence"),
    [
        ({}, "multipart/form-data"),
        ({"json": {"a": 1}}, "multipart/form-data"),
        ({"files": {"files": ("", b"")}}, "multipart"),  # what a form without a chosen file sends
        ({"content": b"x", "headers": {"content-type": "multipart/form-data"}}, "boundary"),
        ({"content": b"x", "headers": {"content-type": "multipart/form-data; boundary=b"}}, "Invalid multipart"),
    ],
)
def test_what_is_no_upload_is_refused_with_a_sentence(client, request_of, sentence):
    answer = client.post("/v1/predict", **request_of)
    assert answer.status_code == 422
    assert sentence in answer.json()["error"] or "has no file" in answer.json()["error"]


def test_an_empty_file_is_an_error_for_itself(client, pictures, sent):
    empty, good = predict(client, [("files", ("empty.png", b"")), *sent(pictures[0])])
    assert empty["error"] == "empty.png: the file is empty (0 bytes)."
    assert "error" not in good


def test_files_are_gone_once_a_request_is_answered(client, pictures, sent):
    predict(client, sent(*pictures))
    folder = client.app.state.service.folder
    assert folder.stat().st_mode & 0o777 == 0o700
    assert list(folder.iterdir()) == []


def test_the_model_is_told_as_json_and_as_markdown(client, predictor, trained):
    told = client.get("/v1/model").json()
    document = json.loads((trained.bundle / "ensemble.json").read_text())
    assert told["bundle"] == document.pop("digest")
    assert told["document"] == document
    assert told["classes"] == list(predictor.classes)
    assert told["card"] == model_card(predictor.document)
    answer = client.get("/v1/model", params={"format": "markdown"})
    assert answer.headers["content-type"] == "text/markdown; charset=utf-8"
    assert answer.text == told["card"]


def test_the_model_says_what_differs_from_the_bundle(asked, predictor):
    first, *others = predictor.classes
    rare = predictor.for_prevalence({name: 0.01 for name in others})
    with asked(rare) as client:
        assert client.get("/v1/model").json()["deployed"][first] == pytest.approx(1 - 0.01 * len(others))


def test_metrics_count_requests_images_labels_and_what_is_not_readable(client, pictures, sent):
    images = predict(client, [*sent(*pictures), ("files", ("broken.png", b"x"))])
    client.get("/nowhere/in/particular")
    lines = client.get("/metrics").text.splitlines()
    values = dict(line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
    assert values['consilia_serve_requests_total{route="/v1/predict",status="200"}'] == "1.0"
    assert values['consilia_serve_requests_total{route="other",status="404"}'] == "1.0"
    assert values['consilia_serve_request_seconds_count{route="/v1/predict"}'] == "1.0"
    assert values["consilia_serve_unreadable_images_total"] == "1.0"
    assert values["consilia_serve_waiting_images"] == "0.0"
    labels = [image["label"] for image in images[:3]]
    for name in client.app.state.service.predictor.classes:
        assert float(values[f'consilia_serve_labels_total{{label="{name}"}}']) == labels.count(name)
    assert sum(float(value) for name, value in values.items() if name.startswith("consilia_serve_images_total")) == 3


def test_openapi_describes_every_route(client):
    paths = client.get("/openapi.json").json()["paths"]
    assert set(paths) == {"/v1/predict", "/v1/explain", "/v1/model", "/healthz", "/metrics"}
    form = paths["/v1/predict"]["post"]["requestBody"]["content"]["multipart/form-data"]["schema"]
    assert form["required"] == ["files"]


def test_nothing_of_the_page_comes_from_elsewhere(client):
    policy = client.get("/").headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "script-src 'self';" in policy
    assert client.get("/healthz").json() == {"status": "ok"}
    files = sorted(PAGE.iterdir())
    assert [file.name for file in files] == ["index.html", "page.css", "page.js"]
    for file in files:
        assert not re.search(r"(?:https?:)?//\w+\.", file.read_text(encoding="utf-8"))
        assert client.get(f"/{file.name}").status_code == 200


def test_an_unforeseen_failure_is_told_without_what_it_says(asked, predictor, pictures, sent, caplog):
    class Failing(type(predictor)):
        def judge(self, images):
            raise ValueError("/secret/place")

    fields = {name: getattr(predictor, name) for name in predictor.__dataclass_fields__}
    with asked(Failing(**fields)) as client, pytest.raises(ValueError, match="secret"):
        client.post("/v1/predict", files=sent(pictures[0]))
    assert "1 requests failed together" in caplog.text
