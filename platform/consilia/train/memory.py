"""Which errors mean that memory ran out."""

import torch

# Beside torch's own error a plain RuntimeError may say so: what CPU allocators write on Linux, macOS and Windows, and
# what cuBLAS and cuDNN return when they get no workspace.
_WORDS = ("can't allocate memory", "not enough memory", "Cannot allocate memory", "ALLOC_FAILED")


def is_out_of_memory(error: BaseException) -> bool:
    """Say whether `error` means that main or device memory ran out."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _WORDS)
