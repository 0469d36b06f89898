"""The staff pages: Django's admin with roles, restrictions and access logging."""
