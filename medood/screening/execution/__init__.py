"""Execution engines for a run: in this process, in worker processes, or on a Dask cluster."""
