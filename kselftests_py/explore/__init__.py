"""The explorer: random sequences of operations, judged after every step by a model of the documentation."""
