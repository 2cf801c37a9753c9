-- The index of a store, schema version 1 (DuckDB >= 2.0). Made from the journals, never the only copy of anything.
--
-- No FOREIGN KEYs and no secondary indexes on purpose: both make UPDATE, UPSERT and ALTER of the parent fail.
-- References are checked by `ablate db check`. Times are UTC. `uid`, `written_at`: the journal event a row is from.

CREATE TABLE ingest(               -- how much of each journal the index holds
  journal VARCHAR PRIMARY KEY, byte_offset BIGINT NOT NULL, events BIGINT NOT NULL, torn BIGINT NOT NULL,
  last_at TIMESTAMP);

CREATE TABLE refused(              -- events that contradict themselves or the store; kept for `ablate db check`
  uid VARCHAR PRIMARY KEY, kind VARCHAR, reason VARCHAR NOT NULL, event JSON);

CREATE TABLE study(
  study_id VARCHAR PRIMARY KEY, uid VARCHAR, written_at TIMESTAMP, name VARCHAR NOT NULL, question VARCHAR,
  space_yaml VARCHAR, space_sha256 VARCHAR, fidelity VARCHAR, baseline_arm_id VARCHAR, metric JSON, margin DOUBLE,
  alpha DOUBLE, skips JSON, published JSON, claims JSON, compare JSON, version VARCHAR);

CREATE TABLE arm(                  -- a resolved config without its seed
  arm_id VARCHAR PRIMARY KEY, uid VARCHAR, written_at TIMESTAMP, label VARCHAR, config JSON NOT NULL);

CREATE TABLE study_arm(            -- the places of an arm in the plans of a study
  study_id VARCHAR, arm_id VARCHAR, plan VARCHAR, label VARCHAR, uid VARCHAR, written_at TIMESTAMP,
  arm_label VARCHAR, plan_kind VARCHAR, position BIGINT, axis VARCHAR, level VARCHAR, choice JSON,
  baseline_label VARCHAR,
  PRIMARY KEY (study_id, arm_id, plan, label));

CREATE TABLE trial(                -- trial_id is the train key
  trial_id VARCHAR PRIMARY KEY, uid VARCHAR, written_at TIMESTAMP, arm_id VARCHAR NOT NULL, seed BIGINT NOT NULL,
  steps_planned BIGINT);

CREATE TABLE attempt_started(
  uid VARCHAR PRIMARY KEY, written_at TIMESTAMP NOT NULL, journal VARCHAR, trial_id VARCHAR NOT NULL,
  task VARCHAR, host VARCHAR, pid BIGINT, machine VARCHAR, process_started BIGINT, device VARCHAR, num_gpus DOUBLE,
  env_id VARCHAR, resumed_from_step BIGINT);

CREATE TABLE attempt_ended(
  uid VARCHAR PRIMARY KEY, written_at TIMESTAMP NOT NULL, trial_id VARCHAR NOT NULL, attempt VARCHAR,
  status VARCHAR NOT NULL CHECK (status IN ('done', 'diverged', 'failed', 'interrupted', 'lost')), reason VARCHAR,
  step BIGINT, wall_seconds DOUBLE, cpu_seconds DOUBLE, gpu_seconds DOUBLE, peak_mem_mb DOUBLE, num_parameters BIGINT,
  error_type VARCHAR, error_head VARCHAR, eval_key VARCHAR);

CREATE TABLE env(env_id VARCHAR PRIMARY KEY, uid VARCHAR, written_at TIMESTAMP, definition JSON NOT NULL);

CREATE TABLE metric_def(
  metric_id VARCHAR PRIMARY KEY, uid VARCHAR, written_at TIMESTAMP, name VARCHAR, higher_is_better BOOLEAN,
  n_samples BIGINT, definition JSON NOT NULL);

CREATE TABLE eval_cond(cond_id VARCHAR PRIMARY KEY, uid VARCHAR, written_at TIMESTAMP, definition JSON NOT NULL);

CREATE TABLE measurement(
  trial_id VARCHAR, metric_id VARCHAR, cond_id VARCHAR, step BIGINT, draw BIGINT, uid VARCHAR, written_at TIMESTAMP,
  attempt VARCHAR, eval_key VARCHAR, n_samples BIGINT NOT NULL, value DOUBLE CHECK (value IS NULL OR isfinite(value)),
  sample_seed BIGINT, wall_seconds DOUBLE, extra JSON, UNIQUE (trial_id, metric_id, cond_id, step, draw));

CREATE TABLE scalar_point(         -- training curves; each line of a journal is read exactly once, so no key is needed
  trial_id VARCHAR, attempt VARCHAR, step BIGINT, name VARCHAR, value DOUBLE, wall_seconds DOUBLE,
  written_at TIMESTAMP);

CREATE TABLE artifact(
  trial_id VARCHAR, kind VARCHAR, step BIGINT, cond_id VARCHAR, path VARCHAR, uid VARCHAR, written_at TIMESTAMP,
  sha256 VARCHAR, bytes BIGINT, mime VARCHAR, width BIGINT, height BIGINT, rows BIGINT, cols BIGINT,
  PRIMARY KEY (trial_id, kind, step, cond_id, path));

-- One row per attempt, numbered from 1 in time; status is NULL while nobody has said how it ended. An end names the
-- uid of its start, or belongs to the trial's newest start before it. Of several ends of one attempt (the process and
-- the driver both spoke) the one that claims most counts.
CREATE VIEW attempt AS
  WITH paired AS (
    SELECT e.*, s.uid AS started_uid FROM attempt_ended e
    LEFT JOIN attempt_started s ON s.trial_id = e.trial_id AND (e.attempt IS NULL OR s.uid = e.attempt)
    QUALIFY row_number() OVER (PARTITION BY e.uid ORDER BY s.written_at <= e.written_at DESC,
                               abs(epoch(e.written_at) - epoch(s.written_at)), s.uid) = 1),
  ends AS (
    SELECT * FROM paired
    QUALIFY row_number() OVER (PARTITION BY coalesce(started_uid, uid) ORDER BY
      list_position(['done', 'diverged', 'interrupted', 'failed', 'lost'], status), written_at, uid) = 1),
  joined AS (
    SELECT coalesce(s.trial_id, e.trial_id) AS trial_id, coalesce(s.task, 'train') AS task,
           s.host, s.pid, s.machine, s.process_started, s.device, s.num_gpus,
           s.env_id, s.resumed_from_step, s.journal, coalesce(s.written_at, e.written_at) AS started_at,
           e.written_at AS ended_at, e.status, e.reason, e.step, e.wall_seconds, e.cpu_seconds, e.gpu_seconds,
           e.peak_mem_mb, e.num_parameters, e.error_type, e.error_head, e.eval_key,
           coalesce(s.uid, e.attempt, e.uid) AS uid
    FROM attempt_started s FULL JOIN ends e ON e.started_uid = s.uid)
  SELECT *, row_number() OVER (PARTITION BY trial_id ORDER BY started_at, uid) AS number FROM joined;

-- How far each trial has come.
CREATE VIEW trial_step AS
  SELECT trial_id, max(step) AS step FROM (
    SELECT trial_id, step FROM attempt_ended UNION ALL SELECT trial_id, resumed_from_step FROM attempt_started
    UNION ALL SELECT trial_id, step FROM scalar_point UNION ALL SELECT trial_id, step FROM measurement)
  GROUP BY trial_id;

-- The number of each finished trial under each metric identity and condition: last step with a value, mean over draws.
CREATE VIEW final_measurement AS
  WITH last AS (
    SELECT trial_id, metric_id, cond_id, max(step) AS step FROM measurement WHERE value IS NOT NULL GROUP BY ALL)
  SELECT t.arm_id, m.trial_id, t.seed, m.metric_id, m.cond_id, m.step, avg(m.value) AS value,
         stddev_samp(m.value) AS draw_sd, count(*) AS draws
  FROM measurement m JOIN last USING (trial_id, metric_id, cond_id, step) JOIN trial t USING (trial_id)
  WHERE m.value IS NOT NULL AND m.trial_id IN (SELECT trial_id FROM attempt_ended WHERE status = 'done') GROUP BY ALL;
