"""A database with many jobs: a few real ones, and copies of them that differ in time and state."""

from benchmarks.stand.postgres import Postgres
from benchmarks.stand.service import Process, Service

PROCESSES = (Process.warm, Process.stock, Process.unserved)
STATES = (
    *("COMPLETED", "FAILED", "COMPLETED", "RUNNING", "COMPLETED", "CANCELLED", "COMPLETED"),
    *("COMPLETED", "FAILED", "COMPLETED", "RUNNING", "COMPLETED", "SCHEDULED", "COMPLETED"),
    *("COMPLETED", "FAILED", "COMPLETED", "RUNNING", "COMPLETED", "COMPLETED"),
)
"""Those of every so many jobs; each often enough for a full page among 1,000 jobs."""
SPAN = "30 days"
"""How old the oldest job is; the others are spread evenly over that time."""
LONGEST_SECONDS = 3600
"""Durations of jobs are spread evenly up to this."""

_COPY = """
-- in one go: a run refers to its state, and a state to its run
SET session_replication_role = replica;

CREATE TEMP TABLE template AS
  SELECT run, row_number() OVER (ORDER BY run.created) - 1 AS position FROM flow_run AS run;

CREATE TEMP TABLE copy AS
  SELECT
    number,
    run,
    md5('run' || number)::uuid AS id,
    made,
    made + interval '1 second' AS started,
    made + interval '1 second' + interval '1 second' * (number * 7919 % {longest}) AS ended
  FROM generate_series(1, {jobs} - (SELECT count(*) FROM template)) AS number
  CROSS JOIN LATERAL (
    SELECT now() - interval '{span}' * number / {jobs} AS made
  ) AS time
  JOIN template ON template.position = number % (SELECT count(*) FROM template);

INSERT INTO flow_run SELECT made_run.*
  FROM copy CROSS JOIN LATERAL jsonb_populate_record(run, jsonb_build_object(
    'id', copy.id,
    'name', 'pygeoapi_job_' || copy.id,
    'idempotency_key', 'pygeoapi_job_' || copy.id,
    'created', made,
    'updated', made,
    'expected_start_time', made,
    'next_scheduled_start_time',
      CASE WHEN (run).next_scheduled_start_time IS NOT NULL THEN made END,
    'start_time', CASE WHEN (run).start_time IS NOT NULL THEN started END,
    'end_time', CASE WHEN (run).end_time IS NOT NULL THEN ended END,
    'state_id', md5(number || (run).state_id::text)::uuid,
    'state_timestamp', CASE WHEN (run).end_time IS NOT NULL THEN ended ELSE started END
  )) AS made_run;

INSERT INTO flow_run_state SELECT made_state.*
  FROM copy
  JOIN flow_run_state AS state ON state.flow_run_id = (run).id
  CROSS JOIN LATERAL jsonb_populate_record(state, jsonb_build_object(
    'id', md5(number || state.id::text)::uuid,
    'flow_run_id', copy.id,
    'timestamp', CASE
      WHEN state.id <> (run).state_id THEN made + (state.timestamp - (run).created)
      WHEN (run).end_time IS NOT NULL THEN ended
      ELSE started
    END
  )) AS made_state;
"""


def make_originals(service: Service) -> None:
    """Make one job for each of `STATES`."""
    for number, state in enumerate(STATES):
        process = PROCESSES[number % len(PROCESSES)]
        job_id = service.execute(process, "respond-async").json()["jobID"]
        path = f"/flow_runs/{service.prefect.run_id(job_id)}/set_state"
        steps = [] if state == "SCHEDULED" else ["PENDING", "RUNNING", state]
        for step in dict.fromkeys(steps):
            service.prefect.post(path, {"state": {"type": step}, "force": True})


def fill(postgres: Postgres, database: str, jobs: int) -> None:
    """Copy the jobs of a database until there are so many."""
    postgres.execute(database, _COPY.format(jobs=jobs, span=SPAN, longest=LONGEST_SECONDS))
    # what autovacuum does in time
    postgres.execute(database, "VACUUM (ANALYZE)")
