"""What a finished run says to a reader: an HTML page with figures and a gallery, a Markdown table. No torch."""
