"""The adapter to EleutherAI's lm-evaluation-harness: its tasks, a model with its interface, and the isolation of its side effects."""
