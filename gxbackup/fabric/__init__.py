"""Hyperledger Fabric's own rules: what its files hold, and which of them belong together. Knows no sealing."""
