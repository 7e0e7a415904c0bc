"""Tiny random models of every supported family, each of its family's own classes; nothing is downloaded."""
