"""How a detector does on scans of other sources: disease with the grey values held equal, calibration on a site."""
