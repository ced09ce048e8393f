"""Reports: what was measured as a record, a terminal table and a model card."""
