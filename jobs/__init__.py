"""Entry points: one script per verb, each parses, builds, runs and prints."""
