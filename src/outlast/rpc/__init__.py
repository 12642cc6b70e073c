"""gRPC: the Operations and admin services, the decorator, and everything that knows protobuf."""
