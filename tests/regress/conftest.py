"""Stored runs, made without a model."""

from tests.harness.conftest import edit_facts, make_run, stored_run

__all__ = ["edit_facts", "make_run", "stored_run"]
