"""The check of a machine, `harness selfcheck`: does it compute what the stored results of another one say?

It asks something else than the self-check of a model (`harness.run.self_check`), which holds the engine against ``generate`` of
transformers on this machine, before every run.
"""
