"""Processes as authors write them.

The integration tests copy this folder beside a configuration, as the package
`site_processes`: web server and workers must find it there and have nothing else of it.
"""
