"""A service whose operations do what their request says, to test servers and clients.

It can kill its process and write files: offer it to nobody who may not do that.
"""

from outlast_script.service import ScriptService

__all__ = ["ScriptService"]
