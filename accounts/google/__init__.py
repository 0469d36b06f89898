"""Google provider of django-allauth, with a nonce and verified ID tokens."""
