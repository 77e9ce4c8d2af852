"""What a run and a sweep tell the reader: terminal table, figures, pages and CSV files, all drawn from `results.json`."""
