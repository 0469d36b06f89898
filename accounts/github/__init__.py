"""GitHub as django-allauth knows it, with its answers read with care."""
