"""The live feed: events as they happen, for any number of readers; without HTTP. See DESIGN.md."""
