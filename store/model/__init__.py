"""The model of a job: events, fold, decisions, subjects, errors and limits. Pure."""
