"""GitHub provider of django-allauth, with strict parsing of responses."""
