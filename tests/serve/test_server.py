"""`consilia serve` as a process: it says where it is, answers, and ends on Ctrl-C without a traceback."""

import json
import socket
import stat
import threading
import urllib.error
import urllib.request

import httpx2
import pytest

from consilia.cli.app import run
from serve_process import ServerProcess


def test_it_answers_over_a_socket_with_the_numbers_of_the_predictor(server, predictor, pictures, sent):
    assert "It is not a medical device." in server.said
    answer = httpx2.post(f"{server.url}/v1/predict", files=sent(*pictures), timeout=60)
    found = [image["confidence"] for image in answer.json()["images"]]
    assert found == [each.confidence for each in predictor.predict(pictures)]


def test_clients_at_once_are_all_answered(server, predictor, pictures, sent):
    expected = [each.confidence for each in predictor.predict(pictures)]
    found: list[float] = []

    def ask(number: int) -> None:
        answer = httpx2.post(f"{server.url}/v1/predict", files=sent(pictures[number % 3]), timeout=60)
        found.append(abs(answer.json()["images"][0]["confidence"] - expected[number % 3]))

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(24)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 24
    assert max(found) < 1e-5  # sums of another batch size differ in their last digits


def test_ctrl_c_ends_it_without_a_traceback_whatever_is_under_way(trained):
    server = ServerProcess(trained.bundle)
    address = server.url.removeprefix("http://").split(":")
    with socket.create_connection((address[0], int(address[1]))) as unfinished:
        head = "POST /v1/predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n"
        unfinished.sendall(f"{head}Content-Type: multipart/form-data; boundary=b\r\n\r\n--b".encode())
        with socket.create_connection((address[0], int(address[1]))):  # idle
            code, out, err = server.end()
    assert (code, out, err) == (130, "", "consilia: Stopped by Ctrl-C.\n")


def test_beyond_loopback_it_asks_for_a_token_and_says_where_it_is_and_not_what(trained, tmp_path):
    token_file = tmp_path / "token"
    server = ServerProcess(trained.bundle, "--host", "0.0.0.0", "--token-file", str(token_file))
    try:
        url = server.url.replace("0.0.0.0", "127.0.0.1")
        with pytest.raises(urllib.error.HTTPError, match="401"):
            urllib.request.urlopen(f"{url}/v1/model")
        token = token_file.read_text().strip()
        request = urllib.request.Request(f"{url}/v1/model", headers={"Authorization": f"Bearer {token}"})
        assert "digest" not in json.load(urllib.request.urlopen(request))["document"]
    finally:
        code, out, err = server.end()
    assert code == 130
    said = server.said + out + err
    assert str(token_file) in said
    assert "unencrypted" in said
    assert token not in said
    assert stat.S_IMODE(token_file.stat().st_mode) == 0o600


def test_a_port_in_use_is_one_line(trained, capsys):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        assert run(["serve", str(trained.bundle), "--port", str(port)]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"consilia: 127.0.0.1, port {port} cannot be listened on: ")
    assert len(said.splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("nowhere",), "nowhere must be the folder of an ensemble"),
        (("nowhere", "--host", "host.invalid"), "--host must be an address of this machine"),
        (("nowhere", "--max-waiting", "3"), "At least 64 images must be allowed to wait"),
    ],
)
def test_a_user_s_error_is_one_line(arguments, sentence, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CONSILIA_SERVE_TOKEN", "0123456789abcdef")
    assert run(["serve", *arguments, "--port", "0"]) == 2
    said = capsys.readouterr().err
    assert sentence in said
    assert len(said.splitlines()) == 1
