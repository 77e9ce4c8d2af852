"""Tasks on text: summaries, translations, answers, labels and the next line of a dialogue, from files or from the hub."""
