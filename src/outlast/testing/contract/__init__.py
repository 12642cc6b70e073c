"""The parts of the store contract, one topic each; `StoreContract` joins them."""

from importlib.util import find_spec

for _needed in ("pytest", "pytest_asyncio"):
    if find_spec(_needed) is None:
        msg = f"the store contract needs {_needed}: install the extra outlast[testing]"
        raise ImportError(msg)
