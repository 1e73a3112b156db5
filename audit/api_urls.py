from rest_framework.routers import SimpleRouter

from . import api

router = SimpleRouter(use_regex_path=False)
router.register("records", api.RecordViewSet, basename="record")

urlpatterns = router.urls
