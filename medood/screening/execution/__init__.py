"""Where the work of a run is done: in this process, in worker processes, or on a Dask cluster."""
