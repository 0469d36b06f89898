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
    "DESCRIPTION": "Signs ComfyUI in with a key, and tells services whose key it is.",
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
        {"name": "ComfyUI", "description": "What an unmodified ComfyUI calls."},
        {"name": "Keys", "description": "A person's keys."},
        {"name": "Validation", "description": "What a service in front of ComfyUI asks."},
        {"name": "Leaks", "description": "Keys that were found where others can read them."},
        {"name": "OAuth", "description": "A key without copying one, for machines and sites."},
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
]
CORS_EXPOSE_HEADERS = ["Idempotency-Replayed", "Location", "Retry-After"]
CORS_PREFLIGHT_MAX_AGE = 7200
