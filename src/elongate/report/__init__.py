"""What a run and a sweep tell the reader: tables, figures and pages, all drawn from `results.json`."""
