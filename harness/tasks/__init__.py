"""Tasks: images, questions, answers, scoring."""
