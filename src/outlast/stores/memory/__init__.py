"""Operations in the memory of one process."""

from outlast.stores.memory.store import MemoryStore as MemoryStore
