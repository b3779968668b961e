-- How many events have an earlier stream time than the event before them; NULL: not counted from the first event on.
ALTER TABLE checkpoint ADD COLUMN clock_steps INTEGER;
