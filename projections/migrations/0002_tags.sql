-- Names that a job's versions have: a JSON object, name to version, in the order of the names; '' for none.
ALTER TABLE jobs ADD COLUMN tags TEXT NOT NULL DEFAULT '' CHECK (tags = '' OR json_valid(tags));
