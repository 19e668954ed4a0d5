"""Watch a detector in use: runs over time, and changes along their scans."""
