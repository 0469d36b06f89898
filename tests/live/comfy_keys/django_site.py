"""A third-party Django site, written as clients/python/README.md describes."""

import os

import django
from django.conf import settings

settings.configure(
    ALLOWED_HOSTS=["127.0.0.1"],
    DEBUG=bool(os.environ.get("SITE_DEBUG")),
    INSTALLED_APPS=["rest_framework"],
    ROOT_URLCONF=__name__,
    SECRET_KEY="of the site",
    REST_FRAMEWORK={"UNAUTHENTICATED_USER": None},
    COMFY_KEYS={"URL": os.environ["KEYS_URL"], "CACHE_FOR": 0.5, "TIMEOUT": 2.0},
)
django.setup()

from comfy_keys.drf import ComfyKeyAuthentication, HasScope  # noqa: E402
from django.core.wsgi import get_wsgi_application  # noqa: E402
from django.urls import path  # noqa: E402
from rest_framework.permissions import IsAuthenticated  # noqa: E402
from rest_framework.request import Request  # noqa: E402
from rest_framework.response import Response  # noqa: E402
from rest_framework.throttling import UserRateThrottle  # noqa: E402
from rest_framework.views import APIView  # noqa: E402


class FrequentThrottle(UserRateThrottle):
    rate = "1000/s"


class Me(APIView):
    authentication_classes = [ComfyKeyAuthentication]
    permission_classes = [IsAuthenticated]
    throttle_classes = [FrequentThrottle]

    def get(self, request: Request) -> Response:
        return Response(
            {
                "id": request.user.id,
                "pk": request.user.pk,
                "email": request.user.email,
                "words": f"{request.user} {request.user!r} {request.auth!r}",
            }
        )


class OpenAI(Me):
    permission_classes = [HasScope("proxy:openai")]


class OpenAIOrManager(Me):
    permission_classes = [HasScope("proxy:openai") | HasScope("keys:manage")]


class Public(Me):
    permission_classes = []

    def get(self, request: Request) -> Response:
        return Response({"user": str(request.user)})


urlpatterns = [
    path("me", Me.as_view()),
    path("openai", OpenAI.as_view()),
    path("either", OpenAIOrManager.as_view()),
    path("anybody", Public.as_view()),
]
application = get_wsgi_application()
