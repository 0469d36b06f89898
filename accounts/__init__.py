"""Accounts: user model, login, MFA, sessions and account pages."""
