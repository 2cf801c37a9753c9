"""The results store: append-only journals are the truth, DuckDB is an index that can be rebuilt from them.

    paths        names every file of a store
    journal      what a process writes: one file per process, one event per line   (imports no duckdb)
    record       a plan and an attempt written as journal events                   (imports no duckdb)
    provenance   the environment an attempt ran in                                 (imports no duckdb)
    ingest       the one writer of the index: Ingester, rebuild
    read         what everybody else reads: frames, finished trials, costs
    check        `ablate db check`

Importing this package imports none of them: a training process needs the journal only, and must not pay for DuckDB.
"""
