"""The admin of pending e-mails: recipients and subjects, no bodies, as these contain codes."""

from django.contrib import admin

from core.admin_mixins import ReadOnlyAdmin
from outbox.models import Mail


@admin.register(Mail)
class MailAdmin(ReadOnlyAdmin):
    list_display = ["to", "subject", "queued_at", "tries", "due_at"]
    fields = ["to", "subject", "queued_at", "tries", "due_at"]
    search_fields = ["to"]
