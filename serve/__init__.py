"""The HTTP service: published models behind Ray Serve. Imports langalign only."""
