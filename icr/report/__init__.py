"""What is shown: status, tables, plots, the page."""
