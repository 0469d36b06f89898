"""Accounts: user model, log-in, MFA, sessions and account pages."""
