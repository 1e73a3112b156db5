from rest_framework.routers import SimpleRouter

from . import api

router = SimpleRouter()
router.register("apis", api.EntryViewSet, basename="api")
router.register("tags", api.TagViewSet, basename="tag")

urlpatterns = router.urls
