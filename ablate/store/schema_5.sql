-- Schema version 5: when a claim of a study was first declared, by the study's name: results that were there before it
-- make it no prediction.

CREATE TABLE claim(study VARCHAR, claim VARCHAR, uid VARCHAR, written_at TIMESTAMP, PRIMARY KEY (study, claim));
