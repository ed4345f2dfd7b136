"""A cluster on this machine with everything that a real one has: `python -m cluster rehearse`."""
