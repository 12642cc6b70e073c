"""What a test needs: a clock to own, and what every store has to pass.

What stores have to pass needs pytest, pytest-asyncio and Hypothesis: install the extra
`testing`. The rest needs nothing.
"""
