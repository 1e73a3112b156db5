from rest_framework.routers import SimpleRouter

from . import api

router = SimpleRouter()
router.register("deployments", api.DeploymentViewSet, basename="deployment")
router.register("workers", api.WorkerViewSet, basename="worker")
router.register("applications", api.ApplicationViewSet, basename="application")
router.register("keys", api.KeyViewSet, basename="key")

urlpatterns = router.urls
