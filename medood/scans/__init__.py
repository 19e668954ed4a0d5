"""Read files as scans: readers, grey-scale pipeline, archives, preprocessing and the training cache."""
