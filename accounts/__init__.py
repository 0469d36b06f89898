"""People: accounts, and how one signs in to them."""
