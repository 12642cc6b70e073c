"""Operation stores. Each keeps the contract of `outlast.ports`; none knows another."""
