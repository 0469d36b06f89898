"""URLs of the audit log."""

from django.urls import path

from audit import views

urlpatterns = [path("account/activity", views.activity, name="activity")]
