"""The command `profile`: what methods cost and gain where a model is served, with no task; begin reading at `profile.py`.

From the request (`config`) and the model (`model`) to timed runs (`measuring`, `rounds`, `break_even_rounds`, `memory` and
`machine_rates`), to figures of them (`figures`, `break_even`, `bounds`, `sharing_gain`), and to tables for a terminal (`text`).
"""
