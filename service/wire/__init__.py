"""What goes over HTTP: paths, request bodies and responses, shared by the API and its clients. Pure.

The service decodes and encodes these Structs, and the OpenAPI document is derived from them.
"""
