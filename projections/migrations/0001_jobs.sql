-- The view: the state of all jobs at one sequence of the log. All of it can be deleted and rebuilt from the log.
-- The CHECKs state the same invariants as the code (store/model/fold.py).

-- One row: the position of the view, and the log that it belongs to.
CREATE TABLE checkpoint (
    only_row INTEGER PRIMARY KEY CHECK (only_row = 1),
    epoch TEXT NOT NULL,              -- names the stream; one that was made again has another
    sequence INTEGER NOT NULL CHECK (sequence >= 0),
    anomalies INTEGER NOT NULL CHECK (anomalies >= 0),  -- events that made no sense, in all
    projection INTEGER NOT NULL,      -- the version of the fold's meaning that made these rows
    time INTEGER NOT NULL DEFAULT 0   -- the stream's time of the record at `sequence`; 0: not known
) STRICT;

-- Narrow rows, for listing. The key is the sequence of the event that created the job: it is the same on every replica,
-- it rises, so new rows go to the end of the table, and it is the order of creation.
CREATE TABLE jobs (
    created_sequence INTEGER PRIMARY KEY CHECK (created_sequence > 0),
    id TEXT NOT NULL,
    namespace TEXT NOT NULL,
    name TEXT NOT NULL,
    type TEXT NOT NULL CHECK (type IN ('batch', 'service', 'daemon', 'ops')),
    priority INTEGER NOT NULL,
    count INTEGER NOT NULL CHECK (count >= 0),
    state TEXT NOT NULL CHECK (state IN ('Pending', 'Queued', 'Running', 'Completed', 'Failed', 'Stopped')),
    message TEXT NOT NULL,
    details TEXT NOT NULL,            -- JSON object; '' for none
    version INTEGER NOT NULL CHECK (version >= 1),
    revision INTEGER NOT NULL CHECK (revision >= version),
    create_time INTEGER NOT NULL,     -- Unix nanoseconds, the stream's
    modify_time INTEGER NOT NULL CHECK (modify_time >= create_time),
    spec_sequence INTEGER NOT NULL CHECK (spec_sequence >= created_sequence),
    sequence INTEGER NOT NULL CHECK (sequence >= spec_sequence)
) STRICT;

-- By id and short prefix. By name too: a named job's id is a function of its namespace and name.
CREATE UNIQUE INDEX jobs_id ON jobs (id);
-- The orders of a list; the key of the table follows each of them and makes it total.
CREATE INDEX jobs_created ON jobs (create_time);
CREATE INDEX jobs_modified ON jobs (modify_time);
CREATE INDEX jobs_namespace_created ON jobs (namespace, create_time);
CREATE INDEX jobs_namespace_state ON jobs (namespace, state, create_time);
CREATE INDEX jobs_state ON jobs (state, create_time);

-- Specs are large, so they have their own table. Every version is kept: the key is the sequence of the event that set it.
CREATE TABLE specs (
    sequence INTEGER PRIMARY KEY,
    created_sequence INTEGER NOT NULL,
    version INTEGER NOT NULL CHECK (version >= 1),
    time INTEGER NOT NULL,            -- Unix nanoseconds, the stream's
    spec BLOB NOT NULL                -- the normalised spec, as it stands in the event
) STRICT;

CREATE UNIQUE INDEX specs_version ON specs (created_sequence, version);

-- Labels of the current spec, so that a selector never scans.
CREATE TABLE labels (
    created_sequence INTEGER NOT NULL,
    key TEXT NOT NULL,
    value TEXT NOT NULL,
    PRIMARY KEY (key, value, created_sequence)
) STRICT, WITHOUT ROWID;

CREATE INDEX labels_job ON labels (created_sequence);

-- Events that are invalid at their position: the checkpoint counts all, this table keeps a limited number.
CREATE TABLE anomalies (
    sequence INTEGER PRIMARY KEY,
    job_id TEXT NOT NULL,
    reason TEXT NOT NULL
) STRICT;
