"""What decodes: one file a runtime, behind the protocol of protocol.py."""
