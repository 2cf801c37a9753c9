-- Schema version 4: trials that confirm a pick on fresh seeds. By the study's name: an edited space is a new version of
-- the study, and what was run to confirm an arm stays what it is.

CREATE TABLE confirm_trial(
  study VARCHAR, arm_id VARCHAR, trial_id VARCHAR, eval_key VARCHAR NOT NULL, uid VARCHAR, written_at TIMESTAMP,
  PRIMARY KEY (study, arm_id, trial_id));
