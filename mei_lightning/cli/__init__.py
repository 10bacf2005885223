"""The command ``mei-lightning``."""
