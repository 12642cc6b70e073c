"""Shows the imaging service at work: `python -m outlast_imaging.demo [PHOTOS]`."""


class DemoError(Exception):
    """The demonstration cannot go on; the message says why."""
