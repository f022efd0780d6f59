"""Routes that pygeoapi's own API layer lacks or gets wrong, for Flask and Starlette.

`routes` has the functions, which know neither framework; `flask_app` and `starlette_app`
put them in front of pygeoapi's.
"""
