"""What a test needs: a clock to own, and what every store has to pass."""
