"""The endpoint that reports the use of keys."""

from datetime import UTC, tzinfo
from uuid import UUID

from django.utils.translation import gettext_lazy as _
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework import status
from rest_framework.request import Request
from rest_framework.response import Response

from accounts.requests import current_user
from apikeys import scopes, usage_reports
from apikeys.api import schema, serializers
from apikeys.api.authentication import KeyAuthentication, PageSessionAuthentication
from apikeys.api.base import BaseView
from apikeys.api.errors import BadRequest, Refused
from apikeys.api.parameters import read_key_id
from apikeys.models import APIKey
from core import time_zones


class UsageView(BaseView):
    authentication_classes = [KeyAuthentication, PageSessionAuthentication]
    scope = scopes.MANAGE
    parameters = frozenset({"period", "key_id", "time_zone"})

    @extend_schema(
        tags=["Keys"],
        operation_id="usage",
        summary="Count the calls of your keys",
        description=(
            "Calls and refused calls, by hour for `24h` and by day for the longer periods, and by "
            "key. Refused calls are those of keys that are deleted, suspended or expired, or whose "
            "account is disabled. A call is counted within a few seconds. The last bucket is not "
            "over yet. In a time zone that differs from UTC by half an hour, a day begins with the "
            "first whole hour of UTC in it."
        ),
        parameters=[
            OpenApiParameter(
                "period",
                str,
                enum=list(usage_reports.PERIODS),
                default=usage_reports.DEFAULT_PERIOD,
                description="The time until now: the last 24 hours, or days including today.",
            ),
            OpenApiParameter("key_id", UUID, description="Count this key only."),
            OpenApiParameter(
                "time_zone",
                str,
                default="UTC",
                description="Whose days these are, by its IANA name, such as `Europe/Berlin`.",
            ),
        ],
        responses={
            200: serializers.UsageSerializer,
            404: schema.NOT_FOUND,
            **schema.SCOPED,
        },
    )
    def get(self, request: Request) -> Response:
        key_id = request.query_params.get("key_id")
        report = usage_reports.report(
            owner=current_user(request),
            period=_period(request),
            key=None if key_id is None else _key(request, key_id),
            tz=_time_zone(request),
        )
        return Response(serializers.UsageSerializer(report).data)


def _period(request: Request) -> str:
    period = request.query_params.get("period", usage_reports.DEFAULT_PERIOD)
    if period not in usage_reports.PERIODS:
        raise BadRequest(
            "INVALID_PERIOD",
            _("There is no such period. Send one of these: %(periods)s.")
            % {"periods": ", ".join(usage_reports.PERIODS)},
        )
    return period


def _key(request: Request, key_id: str) -> APIKey:
    """Return the user's key with this id, also if it is deleted."""
    key = APIKey.objects.filter(owner=current_user(request), pk=read_key_id(key_id)).first()
    if key is None:
        message = _("You have no key with this id.")
        raise Refused("NOT_FOUND", message, status.HTTP_404_NOT_FOUND)
    return key


def _time_zone(request: Request) -> tzinfo:
    name = request.query_params.get("time_zone")
    zone = UTC if name is None else time_zones.named(name)
    if zone is None:
        raise BadRequest(
            "INVALID_TIME_ZONE",
            _("There is no such time zone. Send an IANA name, such as Europe/Berlin."),
        )
    return zone
