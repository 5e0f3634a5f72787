import socket
from pathlib import Path

import pytest
import torch

from consilia.config.study import ClusterProfile
from consilia.errors import ClusterError
from consilia.train.device import (
    autocast,
    device_of,
    limit_memory,
    mps_serves,
    resolve_device,
    set_threads,
    steady_convolutions,
)


def test_a_named_device_is_taken_and_auto_takes_a_gpu_only_where_there_is_one():
    assert resolve_device("cpu") == torch.device("cpu")
    assert resolve_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")


def test_a_cpu_computes_in_float32_whatever_the_precision():
    layer, image = torch.nn.Linear(4, 4), torch.ones(2, 4)
    for precision in ("auto", "float32"):
        with autocast(torch.device("cpu"), precision):
            assert layer(image).dtype == torch.float32


def test_threads_are_set_by_whoever_asks():
    before = torch.get_num_threads()
    set_threads(2)
    assert torch.get_num_threads() == 2
    set_threads(before)


def test_who_requires_a_gpu_trains_on_no_cpu(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ClusterError, match=r"cluster\.gpus is required.*no GPU"):
        device_of(ClusterProfile(gpus="required"))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    devices = {gpus: device_of(ClusterProfile(gpus=gpus)) for gpus in ("required", "auto", "none")}
    assert devices == {"required": "auto", "auto": "auto", "none": "cpu"}


def test_a_process_that_shares_a_gpu_takes_its_share_of_the_memory(monkeypatch: pytest.MonkeyPatch):
    fractions = []
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", fractions.append)
    for available in (False, True):
        monkeypatch.setattr(torch.cuda, "is_available", lambda available=available: available)
        for gpus in (0.0, 0.25, 1.0, 2.0):
            limit_memory(gpus)
    assert fractions == [0.25]


@pytest.mark.parametrize("rounds", [True, False])
def test_convolutions_on_a_gpu_are_computed_alike_each_time_and_only_there(rounds: bool):
    cudnn = torch.backends.cudnn
    before = cudnn.benchmark, cudnn.deterministic, cudnn.allow_tf32
    with steady_convolutions(torch.device("cuda"), rounds=rounds):
        assert (cudnn.benchmark, cudnn.deterministic, cudnn.allow_tf32) == (False, True, rounds)
    with steady_convolutions(torch.device("cpu"), rounds=rounds):
        assert (cudnn.benchmark, cudnn.deterministic, cudnn.allow_tf32) == before
    assert (cudnn.benchmark, cudnn.deterministic, cudnn.allow_tf32) == before


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_SEQPACKET, socket.SOCK_DGRAM])
def test_mps_serves_while_its_daemon_listens_and_no_longer(
    kind: socket.SocketKind, short_tmp: Path, monkeypatch: pytest.MonkeyPatch
):
    control = short_tmp / "control"
    control.unlink(missing_ok=True)
    monkeypatch.setenv("CUDA_MPS_PIPE_DIRECTORY", str(short_tmp))
    assert not mps_serves()
    with socket.socket(socket.AF_UNIX, kind) as daemon:
        daemon.bind(str(control))
        if kind != socket.SOCK_DGRAM:
            daemon.listen()
        assert mps_serves()
        daemon.setblocking(False)
        with pytest.raises(BlockingIOError):  # it has not heard of it
            daemon.recv(1) if kind == socket.SOCK_DGRAM else daemon.accept()
    assert control.exists()
    assert not mps_serves()
