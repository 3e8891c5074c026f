"""HOW IS IT? Facts observed in the background, and the verdicts drawn from them."""
