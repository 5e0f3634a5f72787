"""What the libraries that write our files raise where there is no room.

On a full device only Python opens it: safetensors and pyarrow replace or remove what they cannot write.
"""

import errno
import pickle
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors import SafetensorError

from consilia.train.faults import DiskFullError, is_disk_full, writing
from consilia.train.network_files import write_state

FULL = Path("/dev/full")  # every write to it fails with ENOSPC


def _parquet():
    with FULL.open("wb") as file:
        pd.DataFrame({"x": np.arange(100_000.0)}).to_parquet(file)


def _safetensors():
    # As safetensors 0.8 said on a file system of one megabyte.
    raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")


WRITERS = {
    "torch": lambda: write_state({"weights": torch.zeros(100_000)}, FULL),
    "torch, less than a buffer": lambda: write_state({"weights": torch.zeros(1)}, FULL),
    "parquet": _parquet,
    "safetensors": _safetensors,
    "text": lambda: FULL.write_text("x" * 100_000),
}


@pytest.mark.skipif(not FULL.is_char_device(), reason="this system has no /dev/full")
@pytest.mark.parametrize("writer", WRITERS)
def test_every_kind_of_file_is_named_when_there_is_no_room_for_it(writer):
    with pytest.raises(DiskFullError, match=r"some\.file could not be written; make room"), writing(Path("some.file")):
        WRITERS[writer]()


def test_a_full_quota_is_a_full_disk():
    assert is_disk_full(OSError(errno.EDQUOT, "over quota"))
    assert not is_disk_full(ValueError("no number"))


def test_a_full_disk_is_one_for_another_worker_too_which_hears_of_it_without_its_cause():
    with pytest.raises(DiskFullError) as raised, writing(Path("some.file")):
        raise OSError(errno.ENOSPC, "no room")
    heard = pickle.loads(pickle.dumps(raised.value))
    assert heard.__cause__ is None
    assert is_disk_full(heard)


def test_any_other_error_of_a_write_passes(tmp_path):
    with pytest.raises(FileNotFoundError), writing(tmp_path / "none" / "file"):
        (tmp_path / "none" / "file").write_text("x")
