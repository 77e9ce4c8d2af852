"""Learning rate schedules, one per file. Read schedule.py first."""
