"""Credits and plans: none are kept or sold."""

from django.utils.translation import gettext_lazy as _
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework import serializers, status
from rest_framework.request import Request
from rest_framework.response import Response

from apikeys.api import schema
from apikeys.api.comfyui.base import KeyRequiredView
from apikeys.api.errors import Refused
from apikeys.api.parameters import read_number

_MAX_LIMIT = 100
_MAX_PAGE = 1_000_000


class CreditsPurchaseView(KeyRequiredView):
    @extend_schema(
        tags=["ComfyUI"],
        summary="Buying credits: refused",
        description="This platform sells nothing.",
        request=None,
        responses={**schema.REFUSALS, 403: schema.NOT_SOLD},
    )
    def post(self, request: Request) -> Response:
        raise Refused(
            "NOT_SOLD",
            _("There is nothing to buy here: whoever runs this site pays. Ask them for more."),
            status.HTTP_403_FORBIDDEN,
        )


class BalanceView(KeyRequiredView):
    """The balance of an account: none is kept."""

    @extend_schema(
        tags=["ComfyUI"],
        summary="A balance: none is kept",
        responses={404: schema.NOT_KEPT, **schema.SCOPED},
    )
    def get(self, request: Request) -> Response:
        raise Refused(
            "NOT_FOUND",
            _("This platform keeps no credits: nothing is counted, and nothing runs out."),
            status.HTTP_404_NOT_FOUND,
        )


class EventSerializer(serializers.Serializer[dict[str, object]]):
    event_type = serializers.CharField()
    event_id = serializers.CharField()
    params = serializers.DictField()
    createdAt = serializers.DateTimeField()  # noqa: N815 (Comfy API's name)


class EventsSerializer(serializers.Serializer[dict[str, object]]):
    """A page of billing events."""

    total = serializers.IntegerField()
    page = serializers.IntegerField()
    limit = serializers.IntegerField()
    totalPages = serializers.IntegerField()  # noqa: N815
    events = EventSerializer(many=True)


class EventsView(KeyRequiredView):
    @extend_schema(
        tags=["ComfyUI"],
        summary="What the Credits panel lists: nothing, as no credits are kept",
        parameters=[
            OpenApiParameter("page", {"type": "integer", "minimum": 1, "maximum": _MAX_PAGE}),
            OpenApiParameter("limit", {"type": "integer", "minimum": 1, "maximum": _MAX_LIMIT}),
        ],
        responses={200: EventsSerializer, **schema.SCOPED},
    )
    def get(self, request: Request) -> Response:
        return Response(
            {
                "total": 0,
                "page": read_number(request, "page", default=1, most=_MAX_PAGE),
                "limit": read_number(request, "limit", default=10, most=_MAX_LIMIT),
                "totalPages": 0,
                "events": [],
            }
        )


class BillingStatusSerializer(serializers.Serializer[dict[str, bool]]):
    is_active = serializers.BooleanField()
    has_funds = serializers.BooleanField()


class BillingStatusView(KeyRequiredView):
    @extend_schema(
        tags=["ComfyUI"],
        summary="Nothing is gated: the operator pays",
        responses={200: BillingStatusSerializer, **schema.SCOPED},
    )
    def get(self, request: Request) -> Response:
        return Response({"is_active": True, "has_funds": True})


class PlansSerializer(serializers.Serializer[dict[str, object]]):
    plans = serializers.ListField(child=serializers.DictField())


class PlansView(KeyRequiredView):
    @extend_schema(
        tags=["ComfyUI"],
        summary="What may be subscribed to: nothing",
        responses={200: PlansSerializer, **schema.SCOPED},
    )
    def get(self, request: Request) -> Response:
        return Response({"plans": []})
