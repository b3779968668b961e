-- Jobs that are frozen, because an event of theirs can't be read (docs/decisions/0017): everything else of the
-- row is as it was before that event.

-- The last record of the job's subject that changed nothing; 0: none since `sequence`.
ALTER TABLE jobs ADD COLUMN passed INTEGER NOT NULL DEFAULT 0 CHECK (passed >= 0);
-- Why it is frozen, and what it is without the unreadable events: a JSON object; '' for a job that is not.
ALTER TABLE jobs ADD COLUMN quarantine TEXT NOT NULL DEFAULT '' CHECK (quarantine = '' OR json_valid(quarantine));
CREATE INDEX jobs_quarantined ON jobs (created_sequence) WHERE quarantine != '';

-- Jobs of which no creating event can be read: all that is known of them is their subject.
CREATE TABLE lost_jobs (
    namespace TEXT NOT NULL,
    id TEXT NOT NULL,
    sequence INTEGER NOT NULL CHECK (sequence >= 0),  -- since when; 0: all that was lost is accepted
    passed INTEGER NOT NULL CHECK (passed >= 0),
    quarantine TEXT NOT NULL CHECK (quarantine = '' OR json_valid(quarantine)),
    PRIMARY KEY (id, namespace)
) STRICT, WITHOUT ROWID;

-- Sequences that the log no longer holds, as this view found them: not part of what the events mean.
CREATE TABLE damage (
    first INTEGER PRIMARY KEY CHECK (first > 0),
    last INTEGER NOT NULL CHECK (last >= first)
) STRICT;

-- The types of events that the release knew which folded these rows; another one folds frozen jobs again.
ALTER TABLE checkpoint ADD COLUMN vocabulary TEXT NOT NULL DEFAULT '';
