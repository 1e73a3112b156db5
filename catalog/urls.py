from django.urls import path

from . import views

app_name = "catalog"

urlpatterns = [
    path("catalog/", views.entry_list, name="list"),
    path("catalog/-/suggestions/", views.suggestions, name="suggestions"),  # no name begins with "-"
    path("catalog/<str:slug>/", views.entry_detail, name="detail"),
    path("catalog/<str:slug>/openapi.json", views.openapi, name="openapi"),
    path("catalog/<str:slug>/edit/", views.entry_edit, name="edit"),
    path("llms.txt", views.llms_txt, name="llms"),
]
