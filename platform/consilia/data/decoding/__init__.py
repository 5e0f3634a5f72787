"""Files to squares of 8-bit pixels, in processes that a decoder may crash."""
