import pickle

import pytest
import torch

from consilia.train.network_files import UnusableCheckpointError, load_checkpoint, save_checkpoint


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "fold-0" / "checkpoint.pt"
    save_checkpoint(path, {"fingerprint": "abc", "weights": torch.arange(5000.0), "history": [{"epoch": 1}]})
    return path


def test_a_state_comes_back_as_it_was(path):
    state = load_checkpoint(path, fingerprint="abc")
    assert torch.equal(state["weights"], torch.arange(5000.0))
    assert state["history"] == [{"epoch": 1}]


def test_without_a_file_there_is_nothing_to_say(tmp_path):
    assert load_checkpoint(tmp_path / "none.pt", fingerprint="abc") is None


def _truncate(content: bytes) -> bytes:
    return content[: len(content) // 2]


def _flip_a_bit(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


@pytest.mark.parametrize("damage", [_truncate, _flip_a_bit, lambda content: b""])
def test_a_damaged_file_is_named_and_not_taken_up(path, damage):
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(UnusableCheckpointError, match=r"is damaged .+ starts again") as raised:
        load_checkpoint(path, fingerprint="abc")
    assert str(path) in str(raised.value)


def test_a_checkpoint_of_another_configuration_is_not_taken_up(path):
    with pytest.raises(UnusableCheckpointError, match="another configuration"):
        load_checkpoint(path, fingerprint="xyz")


class _Payload:
    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return (open, (str(self.mark), "w"))


def test_code_in_a_checkpoint_is_not_run(path, tmp_path):
    mark = tmp_path / "ran"
    torch.save({"fingerprint": "abc", "payload": _Payload(mark)}, path, pickle_protocol=pickle.DEFAULT_PROTOCOL)
    with pytest.raises(UnusableCheckpointError):
        load_checkpoint(path, fingerprint="abc")
    assert not mark.exists()
