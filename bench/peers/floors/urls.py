from django.http import HttpRequest, HttpResponse, JsonResponse
from django.urls import path
from django.views.decorators.csrf import csrf_exempt
from rest_framework.authtoken.models import Token
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView


@csrf_exempt
def nothing(request: HttpRequest) -> HttpResponse:
    return HttpResponse()


@csrf_exempt
def one_row(request: HttpRequest) -> JsonResponse:
    """Read one row by an index."""
    token = Token.objects.get(key=request.headers["X-API-Key"])
    return JsonResponse({"user": token.user_id})


class Nothing(APIView):
    def post(self, request: Request) -> Response:
        return Response({"valid": True})


urlpatterns = [
    path("django", nothing),
    path("drf", Nothing.as_view()),
    path("select", one_row),
]
