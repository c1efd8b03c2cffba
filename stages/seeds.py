"""Seeds that depend on names alone, so that neither the order of jobs nor what else is run changes a result."""

import hashlib


def seed_of(name: str, purpose: str) -> int:
    """A seed in [0, 2**63) for a purpose ("initialisation", "attack", ...) of what has this name, such as a variant."""
    digest = hashlib.sha256(f"{name}\n{purpose}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1
