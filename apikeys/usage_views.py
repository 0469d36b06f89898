"""The pages of the use of keys."""

from collections.abc import Iterator
from uuid import UUID

from django.contrib.auth.decorators import login_required
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.utils import timezone
from django.views.decorators.http import require_safe

from accounts.requests import current_user
from apikeys import usage_reports
from apikeys.models import APIKey
from apikeys.usage_reports import Report
from core.replica import may_lag
from core.spreadsheets import csv_line


@login_required
@require_safe
@may_lag
def usage(request: HttpRequest) -> HttpResponse:
    """Show calls and refused calls. `?period=` is one of PERIODS, `?key=` the id of one key."""
    period = request.GET.get("period", usage_reports.DEFAULT_PERIOD)
    if period not in usage_reports.PERIODS:
        return redirect("usage")
    key = _requested_key(request)
    report = usage_reports.report(owner=current_user(request), key=key, period=period)
    context = {
        "report": report,
        "reasons": usage_reports.refusal_reasons(report.codes),
        "periods": usage_reports.PERIODS,
        "key": key,
        "section": "usage",
    }
    return render(request, "apikeys/usage.html", context)


@login_required
@require_safe
@may_lag
def usage_csv(request: HttpRequest) -> HttpResponse:
    """Download the table of the usage page, with the same parameters."""
    period = request.GET.get("period", usage_reports.DEFAULT_PERIOD)
    if period not in usage_reports.PERIODS:
        return redirect("usage_csv")
    key = _requested_key(request)
    report = usage_reports.report(owner=current_user(request), key=key, period=period)
    name = f"usage-{period}-{timezone.localdate():%Y-%m-%d}.csv"
    return HttpResponse(
        "".join(_csv_lines(report)),
        content_type="text/csv; charset=utf-8",
        headers={
            "Content-Disposition": f'attachment; filename="{name}"',
            "Cache-Control": "no-store, private",
        },
    )


def _requested_key(request: HttpRequest) -> APIKey | None:
    if "key" not in request.GET:
        return None
    try:
        key_id = UUID(request.GET["key"])
    except ValueError:
        raise Http404 from None
    return get_object_or_404(APIKey, pk=key_id, owner=current_user(request))


def _csv_lines(report: Report) -> Iterator[str]:
    yield csv_line(["name", "key", "calls", "refused_calls", "last_used_at"])
    for row in report.rows:
        last_use = row.key.last_used_at
        yield csv_line(
            [
                row.key.name,
                row.key.masked,
                row.calls,
                row.refusals,
                last_use and last_use.astimezone(report.zone).isoformat(timespec="seconds"),
            ]
        )
