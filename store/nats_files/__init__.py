"""The file formats of nats-server, read and written without the server. Pure.

blocks       message blocks and the metadata of streams
s2           the compression of blocks that an older release wrote
highwayhash  their checksum
"""
