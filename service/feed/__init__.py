"""Live feeds: events as they happen, to any number of readers. No HTTP in here; see DESIGN.md."""
