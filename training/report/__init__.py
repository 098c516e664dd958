"""The report of a training run: its tables and charts in HTML and Markdown."""
