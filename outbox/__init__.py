"""Mail on its way out: kept in the database until a mail server has taken it."""
