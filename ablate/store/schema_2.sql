-- Schema version 2: a trained network measured in several ways, each of them an arm of a study.

-- What is trained for an arm of a study; equal to arm_id where the arm is measured as the study's base is.
ALTER TABLE study_arm ADD COLUMN trained_id VARCHAR;
ALTER TABLE study_arm ADD COLUMN trained_label VARCHAR;

CREATE TABLE study_trial(          -- the trials of a study, and the evaluation by which each belongs to an arm
  study_id VARCHAR, arm_id VARCHAR, trial_id VARCHAR, eval_key VARCHAR NOT NULL, uid VARCHAR, written_at TIMESTAMP,
  PRIMARY KEY (study_id, arm_id, trial_id));

CREATE TABLE evaluation(           -- which numbers an evaluation made; a number equal to an older one is kept once
  trial_id VARCHAR, eval_key VARCHAR, metric_id VARCHAR, cond_id VARCHAR, draw BIGINT, uid VARCHAR,
  written_at TIMESTAMP,
  PRIMARY KEY (trial_id, eval_key, metric_id, cond_id, draw));
INSERT INTO evaluation
  SELECT trial_id, eval_key, metric_id, cond_id, draw, min(uid), min(written_at) FROM measurement
  WHERE eval_key IS NOT NULL GROUP BY ALL;

ALTER TABLE artifact ADD COLUMN draw BIGINT DEFAULT 0;
