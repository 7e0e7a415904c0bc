"""The run folder: its schema, database, locks and integrity."""
