from django.urls import path, re_path

from . import views, views_access, views_people

app_name = "serving"

urlpatterns = [
    path("serving/", views.deployment_list, name="list"),
    path("serving/register/", views.register, name="register"),
    path("serving/try-it-token/", views.try_it_token, name="try_it_token"),
    path("serving/<str:name>/", views.deployment_detail, name="detail"),
    path("serving/<str:name>/remove/", views.deployment_remove, name="remove"),
    path("serving/<str:name>/retry/", views.deployment_retry, name="retry"),
    path("keys/", views.key_list, name="keys"),
    path("keys/applications/<int:pk>/", views.application_detail, name="application"),
    path("keys/applications/<int:pk>/delete/", views.application_delete, name="application_delete"),
    path("keys/<str:prefix>/revoke/", views.key_revoke, name="key_revoke"),
    path("keys/<str:prefix>/rotate/", views.key_rotate, name="key_rotate"),
    path("catalog/<str:slug>/access/", views_access.entry_access, name="access"),
    path("catalog/<str:slug>/access/ask/", views_access.ask, name="access_ask"),
    re_path(r"^subscriptions/(?P<pk>[0-9]{1,18})/(?P<decision>approve|refuse|end)/\Z", views_access.decide, name="subscription"),
    path("people/", views_people.people_list, name="people"),
    path("people/<str:name>/", views_people.person_detail, name="person"),
]
