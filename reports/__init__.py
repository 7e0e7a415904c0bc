"""What a finished run says to a reader: the HTML page, its figures, the gallery and a Markdown table. Needs no torch."""
