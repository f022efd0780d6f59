"""Processes that the acceptance tests copy beside a configuration."""
