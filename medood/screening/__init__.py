"""Archive screening: each image, duplicate or refused file gets one row with its verdict or the reason."""
