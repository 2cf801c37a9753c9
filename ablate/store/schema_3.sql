-- Schema version 3: several trainings may share a process.

ALTER TABLE attempt_started ADD COLUMN packed BIGINT;

-- As in version 1, and how many trainings shared the attempt's process, it among them.
CREATE OR REPLACE VIEW attempt AS
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
           coalesce(s.uid, e.attempt, e.uid) AS uid, coalesce(s.packed, 1) AS packed
    FROM attempt_started s FULL JOIN ends e ON e.started_uid = s.uid)
  SELECT *, row_number() OVER (PARTITION BY trial_id ORDER BY started_at, uid) AS number FROM joined;
