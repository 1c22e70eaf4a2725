"""One file a kind of data; found by scanning (see `anymask.data.kind`)."""
