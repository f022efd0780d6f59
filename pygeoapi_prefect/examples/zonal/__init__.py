"""What the process ``zonal-statistics`` computes with: plain functions, no Prefect.

`zones` reads the client's polygons, `raster` its raster, `placing` puts the one on the
other's pixels, `statistics` counts, `drawing` makes the map. All import heavy libraries:
the process imports them inside its tasks, so that describing it stays cheap.
"""
