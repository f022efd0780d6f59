"""Base classes of processors."""
