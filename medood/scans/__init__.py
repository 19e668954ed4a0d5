"""From files to pixels: readers, grey scale, archives, preprocessing and the training cache."""
