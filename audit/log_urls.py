from django.urls import path

from . import views_log

urlpatterns = [
    path("checkpoint", views_log.checkpoint, name="log-checkpoint"),
    path("vkey", views_log.vkey, name="log-vkey"),
    path("vkeys", views_log.vkeys, name="log-vkeys"),
    path("tile/<path:path>", views_log.tile, name="log-tile"),
    path("proof/<uuid:record_id>", views_log.proof, name="log-proof"),
    path("entry/<uuid:record_id>", views_log.entry, name="log-entry"),
    path("daybook-verify.py", views_log.verifier_file, name="log-verifier"),
    path("receipt-keys", views_log.receipt_keys, name="log-receipt-keys"),
]
