from django.urls import include, path

from . import views

app_name = "audit"

urlpatterns = [
    path("log/", include("audit.log_urls")),
    path("audit/", views.dashboard, name="dashboard"),
    path("audit/records/", views.records, name="records"),
    path("audit/records/new/", views.records_new, name="records-new"),
    path("audit/records/<uuid:record_id>", views.record, name="record"),
    path("audit/verify/", views.verify, name="verify"),
]
