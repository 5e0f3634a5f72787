"""The application under Ray Serve: the shipped file starts two replicas, and they say what the predictor says."""

import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx2
import pytest
import yaml

from ray_cluster import HEAD, Cluster

pytestmark = [
    pytest.mark.ray,
    pytest.mark.slow("starts a Ray of its own with Serve; the application itself is tested without"),
    pytest.mark.timeout(600),
]

PREDICTED = re.compile(r"ServeReplica:consilia:Ensemble pid=(\d+)\).*POST .* 200 ")


def test_two_replicas_of_the_shipped_file_say_what_the_predictor_says(
    root, trained, predictor, pictures, sent, short_tmp, tmp_path
):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    config = yaml.safe_load((root / "cluster" / "serve" / "serve.yaml").read_text())
    config["http_options"]["port"] = port
    (application,) = config["applications"]
    application["args"]["bundle"] = str(trained.bundle)
    application["deployments"][0]["ray_actor_options"]["num_cpus"] = 0.5  # the head has one
    file = tmp_path / "serve.yaml"
    file.write_text(yaml.safe_dump(config))
    expected = [each.confidence for each in predictor.predict(pictures)]
    with Cluster.at(short_tmp) as cluster:
        cluster.wait_for(HEAD)
        command = [str(Path(sys.executable).with_name("serve")), "run", f"--address={cluster.address}", str(file)]
        with (tmp_path / "log").open("w") as log:
            environment = cluster.environment | {"RAY_DEDUP_LOGS": "0"}
            serving = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        try:
            url = f"http://127.0.0.1:{port}"
            wait_until_it_answers(url, serving, tmp_path / "log")
            deadline = time.monotonic() + 120
            while len(replicas_that_predicted(tmp_path / "log")) < 2:  # the second may start later
                assert time.monotonic() < deadline, (tmp_path / "log").read_text()
                answer = httpx2.post(f"{url}/v1/predict", files=sent(*pictures), timeout=60)
                found = [image["confidence"] for image in answer.json()["images"]]
                assert found == expected
                time.sleep(0.1)
            assert httpx2.get(f"{url}/v1/model", headers={"host": "evil.example"}).status_code == 400
            assert httpx2.get(url).text.startswith("<!doctype html>")
        finally:
            serving.send_signal(signal.SIGINT)
            try:
                serving.wait(timeout=60)
            finally:
                serving.kill()
                serving.wait()


def replicas_that_predicted(log: Path) -> set[str]:
    return set(PREDICTED.findall(log.read_text()))


def wait_until_it_answers(url: str, serving: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 300
    while True:
        try:
            if httpx2.get(f"{url}/healthz").status_code == 200:
                return
        except httpx2.TransportError:
            pass  # nobody listens yet
        if serving.poll() is not None or time.monotonic() > deadline:
            pytest.fail(f"the replicas did not start:\n{log.read_text()}")
        time.sleep(0.5)
