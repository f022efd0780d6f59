"""Deployments of the processes of a configuration on the Prefect server.

`plan` finds out what there is to do and does it; `settings`, `work_pools`, `schedules` and
`existing` know what a deployment is made of, and what it has to fit.
"""

from pygeoapi_prefect.deployments.plan import Action, DeploymentChange, Plan, deploy, planned

__all__ = ["Action", "DeploymentChange", "Plan", "deploy", "planned"]
