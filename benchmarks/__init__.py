"""Benchmarks: `make bench` runs them and prints ratios.

Machines differ and so do their moods, so what counts is a figure's ratio to a reference
that was measured in the same run, call by call in turn.
"""
