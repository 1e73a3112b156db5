from rest_framework.routers import SimpleRouter

from . import api, api_access, api_people

router = SimpleRouter()
router.register("deployments", api.DeploymentViewSet, basename="deployment")
router.register("workers", api.WorkerViewSet, basename="worker")
router.register("applications", api.ApplicationViewSet, basename="application")
router.register("keys", api.KeyViewSet, basename="key")
router.register("people", api_people.PersonViewSet, basename="person")
router.register("access", api_access.AccessViewSet, basename="access")
router.register("subscriptions", api_access.SubscriptionViewSet, basename="subscription")

urlpatterns = router.urls
