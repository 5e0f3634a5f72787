"""The folder that a job writes to, as the cluster's shell understands it."""

import subprocess

import pytest

from consilia.cluster.jobs import _entrypoint


@pytest.mark.parametrize(
    ("root", "folder"),
    [("~/consilia", "/home/ada/consilia"), ("~", "/home/ada"), ("/data/our studies", "/data/our studies"), ("r", "r")],
)
def test_a_home_folder_is_the_cluster_s_and_spaces_are_kept(root, folder):
    command = _entrypoint(root).replace("python", "printf '%s\\n'", 1)
    shell = subprocess.run(["sh", "-c", command], env={"HOME": "/home/ada"}, capture_output=True, text=True, check=True)
    arguments = [argument.replace("//", "/") for argument in shell.stdout.splitlines()]
    assert arguments[arguments.index("--studies") + 1] == f"{folder}/studies"
    assert arguments[arguments.index("--stores") + 1] == f"{folder}/stores"


def test_a_root_may_be_a_uri_with_settings():
    command = _entrypoint("s3://bucket/ours?endpoint_override=minio:9000&scheme=http")
    settings = "?endpoint_override=minio:9000&scheme=http"
    assert f"--studies 's3://bucket/ours/studies{settings}' --stores 's3://bucket/ours/stores{settings}'" in command
