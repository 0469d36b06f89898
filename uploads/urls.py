"""URLs for uploads, without trailing slashes."""

from django.urls import path

from uploads import api

urlpatterns = [
    path("customers/storage", api.StorageView.as_view(), name="api_storage"),
    path(
        "customers/storage/<uuid:upload_id>/<str:name>",
        api.StoredFileView.as_view(),
        name="api_stored_file",
    ),
]
