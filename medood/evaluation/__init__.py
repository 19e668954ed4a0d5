"""How good it is, beside what trivial means reach."""
