"""The parts of the store contract, one topic each; `StoreContract` joins them."""
