"""Procedural visual question answering whose every answer has a known place."""
