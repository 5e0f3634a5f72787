"""Files to squares of bytes, in processes that a decoder may crash."""
