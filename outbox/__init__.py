"""The outbox: e-mails are stored in the database until the mail server has accepted them."""
