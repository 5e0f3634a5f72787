"""From files to squares of bytes, in processes that may crash without harm to others."""
