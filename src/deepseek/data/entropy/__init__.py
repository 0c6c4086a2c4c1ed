"""How sure a model is of what it means: semantic entropy, and plainer signals beside it."""
