"""Google as django-allauth knows it, with a nonce in each request and asked for in each answer."""
