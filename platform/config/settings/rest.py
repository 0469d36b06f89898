"""Django REST framework, the OpenAPI document, and CORS."""

from corsheaders.defaults import default_headers

REST_FRAMEWORK = {
    "DEFAULT_AUTHENTICATION_CLASSES": [],
    "DEFAULT_PERMISSION_CLASSES": [],
    "DEFAULT_PARSER_CLASSES": ["apikeys.api.parsers.BoundedJSONParser"],
    "DEFAULT_RENDERER_CLASSES": ["rest_framework.renderers.JSONRenderer"],
    "DEFAULT_SCHEMA_CLASS": "drf_spectacular.openapi.AutoSchema",
    "EXCEPTION_HANDLER": "apikeys.api.errors.exception_handler",
}
SPECTACULAR_SETTINGS = {
    "TITLE": "ComfyUI key platform",
    "DESCRIPTION": "Logs ComfyUI in with an API key, and validates keys for services.",
    "VERSION": "1",
    "SERVE_INCLUDE_SCHEMA": False,
    "SERVE_PUBLIC": True,
    "SCHEMA_PATH_PREFIX": "",
    "SWAGGER_UI_DIST": "SIDECAR",
    "SWAGGER_UI_FAVICON_HREF": "SIDECAR",
    "SWAGGER_UI_SETTINGS": {"deepLinking": True, "persistAuthorization": False},
    "ENFORCE_NON_BLANK_FIELDS": True,
    "ENUM_NAME_OVERRIDES": {"VerdictCode": "apikeys.services.VerdictCode"},
    "POSTPROCESSING_HOOKS": [
        "drf_spectacular.hooks.postprocess_schema_enums",
        "apikeys.api.schema.finish",
    ],
    "TAGS": [
        {"name": "ComfyUI", "description": "Called by an unmodified ComfyUI."},
        {"name": "Keys", "description": "The keys of a user."},
        {"name": "Validation", "description": "For services and proxies."},
        {"name": "Leaks", "description": "Reports of exposed keys."},
        {"name": "OAuth", "description": "Keys for devices and websites, without copying them."},
        {"name": "Probes", "description": "For load balancers and monitors."},
    ],
}

# ComfyUI's pages may be served on any origin. They send a key and never cookies, so every origin is
# allowed, without credentials.
CORS_ALLOW_ALL_ORIGINS = True
CORS_ALLOW_CREDENTIALS = False
# Not /api/v1/auth/: a proxy passes on its client's request there, which may itself be a preflight.
CORS_URLS_REGEX = r"^/(?!api/v1/auth/)(customers|api|proxy|releases|health|ready|\.well-known)(/|$)"
CORS_ALLOW_METHODS = ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]
CORS_ALLOW_HEADERS = [
    *default_headers,
    "comfy-core-version",
    "comfy-env",
    "comfy-job-id",
    "comfy-usage-source",
    "idempotency-key",
    "x-api-key",
    "x-comfy-client",
    "x-comfy-workspace-id",
    "x-csrf-token",
    "x-request-id",
]
CORS_EXPOSE_HEADERS = ["Idempotency-Replayed", "Location", "Retry-After", "X-Request-Id"]
CORS_PREFLIGHT_MAX_AGE = 7200
