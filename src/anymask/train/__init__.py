"""Training: the loop is Lightning's; the rules for steps, states and messages are here."""
