"""From a request to answers: planning, preparing, and the passes that measure."""
