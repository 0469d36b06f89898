"""What waits, for staff: that it does, not what it says. Mails hold codes."""

from django.contrib import admin

from config.modeladmins import ReadOnlyAdmin
from outbox.models import Mail


@admin.register(Mail)
class MailAdmin(ReadOnlyAdmin):
    list_display = ["to", "subject", "queued_at", "tries", "due_at"]
    fields = ["to", "subject", "queued_at", "tries", "due_at"]
    search_fields = ["to"]
