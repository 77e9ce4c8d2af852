"""The lm-evaluation-harness of EleutherAI from within: its tasks, a model as it asks one, and how it is kept apart."""
