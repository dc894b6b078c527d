"""A file in the middle of being written: `make complete` puts the cursor where code is missing."""

from __future__ import annotations

import json
from pathlib import Path


class Account:
    """Money that belongs to somebody."""

    def __init__(self, owner: str, currency: str, balance: int = 0, limit: int = 0) -> None:
        self.owner = owner
        self.currency = currency
        self.balance = balance
        self.limit = limit

    def deposit(self, amount: int) -> None:
        """Add an amount to the balance."""
        if amount < 0:
            raise ValueError("amount must not be negative")
        self.balance += amount

    def withdraw(self, amount: int) -> None:
        """Take an amount from the balance."""
        if amount < 0:
            

    def save(self, path: Path) -> None:
        """Write the account to a JSON file."""
        path.write_text(json.dumps({"owner": self.owner, "currency": self.currency, "balance": self.balance}))
