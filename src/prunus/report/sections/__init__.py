"""Sections of a report: one file a kind of record, and those that take several records together."""
