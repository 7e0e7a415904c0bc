"""The command line: `app` names all commands, which stand in `measuring`, `stored_runs`, `listing` and `doctor`."""
