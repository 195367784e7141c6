"""Every kind of object that a Kubernetes API server serves, listed and applied by plain REST: no kind needs a class."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from gxbackup.adapters.kubernetes_answers import ApiRefusalError, is_of_revision, refusal, says_later
from gxbackup.adapters.kubernetes_api import asking
from gxbackup.adapters.kubernetes_discovery import Discovery, discovered, kind_of
from gxbackup.cluster_objects.naming import Kind, Object
from gxbackup.errors import CollectError

if TYPE_CHECKING:
    from kubernetes.client import ApiClient

CALL_TIMEOUT_SECONDS = 60
# Half a minute: an API server that is restarted on the way costs nothing.
RETRY_DELAYS_SECONDS = (0.2, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0)
# A group may be served by a program of its own, which may be dead for good; no other waits for it.
GROUP_DELAYS_SECONDS = (0.2, 0.5)
CONFLICT_TRIES = 5
# A page is small at first: 500 ConfigMaps of 1 MiB would be half a gigabyte.
FIRST_PAGE_OBJECTS = 50
LARGEST_PAGE_OBJECTS = 500
PAGE_BYTES = 4 * 1024 * 1024
MOST_RESTARTS = 3
FIELD_MANAGER = "gx-backup"


class ObjectApi:
    """One API server, by a client of one's own."""

    def __init__(self, client: ApiClient, largest_page_objects: int = LARGEST_PAGE_OBJECTS) -> None:
        self._client = client
        self._largest_page_objects = largest_page_objects

    def version(self) -> str:
        """Return the server's version, asked once without patience: CollectError where nobody answers."""
        return str(self._ask("GET", "/version", delays=())[0]["gitVersion"])

    def revision(self) -> str | None:
        """Return the cluster's revision of now, which lists can be read at; None where that may not be asked."""
        try:
            answer, _ = self._ask("GET", "/api/v1/namespaces", {"limit": "1"})
        except ApiRefusalError:
            return None
        return answer["metadata"].get("resourceVersion") or None

    def discover(self) -> Discovery:
        """Ask for every group, every version, every kind that can be listed."""
        return discovered(self._ask("GET", "/apis")[0]["groups"], self._resources, self.listing)

    def kinds(self, version: str) -> list[Kind]:
        """Ask what one version of a group serves now. Raises: ApiRefusalError, also where it serves nothing."""
        return [kind_of(version, resource) for resource in self._resources(version)]

    def count(self, kind: Kind) -> int | None:
        """Return how many objects of a kind there are; None where the server does not say."""
        try:
            answer, _ = self._ask("GET", kind.path(), {"limit": "1"}, delays=())
        except ApiRefusalError:
            return None
        return len(answer.get("items") or ()) + int(answer["metadata"].get("remainingItemCount") or 0)

    def listing(self, kind: Kind, revision: str | None = None, namespace: str | None = None) -> Listing:
        """Begin to list a kind, in one namespace or all, as it was at a revision where the server still has it."""
        return Listing(self, kind, revision, self._largest_page_objects, namespace)

    def page(self, kind: Kind, query: dict[str, str], namespace: str | None = None) -> tuple[Object, int]:
        """Return one page of a list, and its size in bytes. Raises: ApiRefusalError, CollectError."""
        return self._ask("GET", kind.path(namespace), query)

    def read(self, kind: Kind, namespace: str | None, name: str) -> Object | None:
        """Return a live object, None where there is none."""
        try:
            return self._ask("GET", kind.path(namespace, name))[0]
        except ApiRefusalError as error:
            if error.status == 404:
                return None
            raise

    def apply(
        self, kind: Kind, wanted: Object, *, dry_run: bool = False, manager: str = FIELD_MANAGER
    ) -> tuple[Object, bool]:
        """
        Apply an object on the server's side; return how it is now, and whether this call created it. Safe to repeat.

        It is spelled in the version of `kind`. `dry_run`: checked and answered, nothing is kept.
        Raises: ApiRefusalError.
        """
        metadata = wanted["metadata"]
        query = {"fieldManager": manager, "force": "true", **({"dryRun": "All"} if dry_run else {})}
        path = kind.path(metadata.get("namespace"), metadata["name"])
        spelled = {**wanted, "apiVersion": kind.api_version}
        answer, status = self._send("PATCH", path, query, spelled, "application/apply-patch+yaml")
        return answer, status == 201

    def amend(self, kind: Kind, name: str, change: Callable[[Object], Object | None]) -> bool:
        """
        Merge into an object of the cluster what `change` returns for it as it is now; null takes a field away.

        Asked again where somebody changed the object meanwhile. Return whether anything was to be changed: not where
        `change` returns None, or the object is gone. Raises: ApiRefusalError.
        """
        for tries_left in reversed(range(CONFLICT_TRIES)):
            if (now := self.read(kind, None, name)) is None or (wanted := change(now)) is None:
                return tries_left < CONFLICT_TRIES - 1  # a try that was not answered may have changed it
            of_this = {key: now["metadata"][key] for key in ("uid", "resourceVersion")}
            query, body = {"fieldManager": FIELD_MANAGER}, {**wanted, "metadata": of_this}
            try:
                self._send("PATCH", kind.path(None, name), query, body, "application/merge-patch+json")
            except ApiRefusalError as error:
                if error.status != 409 or not tries_left:
                    raise
            else:
                return True
        raise AssertionError("the last try returns or raises")

    def replace(self, kind: Kind, earlier: Object) -> None:
        """Give a live object back the form that it had, whoever changes it meanwhile. Raises: ApiRefusalError."""
        metadata = earlier["metadata"]
        path = kind.path(metadata.get("namespace"), metadata["name"])
        for tries_left in reversed(range(CONFLICT_TRIES)):
            now = self._ask("GET", path)[0]["metadata"]
            kept = {**metadata, "resourceVersion": now["resourceVersion"], "uid": now["uid"]}
            try:
                self._send("PUT", path, {}, {**earlier, "metadata": kept}, "application/json")
            except ApiRefusalError as error:
                if error.status != 409 or not tries_left:
                    raise
            else:
                return

    def delete(self, kind: Kind, namespace: str | None, name: str, uid: str) -> bool:
        """
        Delete the very object of this uid; one that is gone, or is another one by now, is left alone.

        Return whether it waits for its finalizers.
        """
        body = {"propagationPolicy": "Background", "preconditions": {"uid": uid}}
        try:
            answer, _ = self._send("DELETE", kind.path(namespace, name), {}, body, "application/json")
        except ApiRefusalError as error:
            if error.status not in (404, 409):
                raise
            return False
        return bool((answer.get("metadata") or {}).get("finalizers"))

    def release(self, kind: Kind, ending: Object) -> None:
        """Take the finalizers from an object that is being deleted, where no controller does; it is gone then."""
        metadata = ending["metadata"]
        path = kind.path(metadata.get("namespace"), metadata["name"])
        freed = {**ending, "metadata": {**metadata, "finalizers": []}}
        if kind.kind == "Namespace":
            freed, path = {**freed, "spec": {"finalizers": []}}, f"{path}/finalize"
        try:
            self._send("PUT", path, {}, freed, "application/json")
        except ApiRefusalError as error:
            if error.status not in (404, 409):
                raise

    def _resources(self, version: str) -> list[Object]:
        """Return the resource list of a version without subresources; the server itself is waited for, a group not."""
        path = f"/apis/{version}" if "/" in version else f"/api/{version}"
        try:
            answer, _ = self._ask("GET", path, delays=GROUP_DELAYS_SECONDS)
        except CollectError as error:
            if not error.retryable:
                raise
            self._ask("GET", "/version")
            answer, _ = self._ask("GET", path, delays=())
        return [resource for resource in answer["resources"] if "/" not in resource["name"]]

    def _send(
        self, method: str, path: str, query: dict[str, str], body: Object, content_type: str
    ) -> tuple[Object, int]:
        raw = body if content_type.endswith("json") else json.dumps(body).encode()  # the client spells JSON itself
        answer, _, status = self._call(method, path, query, raw, content_type, RETRY_DELAYS_SECONDS, "/secrets" in path)
        return answer, status

    def _ask(
        self, method: str, path: str, query: dict[str, str] | None = None, delays: tuple[float, ...] | None = None
    ) -> tuple[Object, int]:
        patience = RETRY_DELAYS_SECONDS if delays is None else delays
        answer, size_bytes, _ = self._call(method, path, query or {}, None, None, patience, False)
        return answer, size_bytes

    def _call(
        self, method: str, path: str, query: dict[str, str], body: Any, content_type: str | None,
        delays: tuple[float, ...], is_secret: bool,
    ) -> tuple[Object, int, int]:  # fmt: skip
        """Ask until it answers: all that is sent here may be sent again."""
        for delay in (*delays, None):
            try:
                with asking(f"kubernetes API {path}"):
                    raw, status = self._once(method, path, query, body, content_type)
            except CollectError as error:
                if delay is None or not error.retryable:
                    raise
            else:
                if status < 300:
                    return json.loads(raw), len(raw), status
                if delay is None or not _is_passing(method, status, raw, is_trial="dryRun" in query):
                    raise refusal(f"{method} {path}", status, raw, is_secret)
            time.sleep(delay)
        raise AssertionError("the last try returns or raises")

    def _once(
        self, method: str, path: str, query: dict[str, str], body: Any, content_type: str | None
    ) -> tuple[bytes, int]:
        headers = {"Accept": "application/json", **({"Content-Type": content_type} if content_type else {})}
        self._client.update_params_for_auth(headers, [], ["BearerToken"], path, method, body)
        url = f"{self._client.configuration.host}{path}" + (f"?{urlencode(query)}" if query else "")
        answer = self._client.call_api(method, url, headers, body=body, _request_timeout=CALL_TIMEOUT_SECONDS)
        raw: bytes = answer.read()  # type: ignore[no-untyped-call]
        return raw, answer.status


class Listing:
    """One kind's objects, page by page; what happened on the way is told once all were read."""

    def __init__(
        self, api: ObjectApi, kind: Kind, revision: str | None, largest_page_objects: int, namespace: str | None
    ) -> None:
        self._api = api
        self._namespace = namespace
        self._kind = kind
        self._revision = revision
        self._largest_page_objects = largest_page_objects
        self.restarts = 0

    @property
    def is_at_revision(self) -> bool:
        """Tell whether the list shows the revision that was asked for."""
        return self._revision is not None

    def __iter__(self) -> Iterator[Object]:
        """
        Yield each object once, with its apiVersion and kind, also where the list had to begin again on the way.

        Raises: ApiRefusalError, CollectError.
        """
        seen: set[tuple[str, str]] = set()
        page_objects = min(FIRST_PAGE_OBJECTS, self._largest_page_objects)
        token = ""
        while True:
            try:
                page, size_bytes = self._api.page(self._kind, self._query(page_objects, token), self._namespace)
            except ApiRefusalError as error:
                if not self._may_begin_again(error, token):
                    raise
                token = ""
                continue
            for item in page.get("items") or ():
                key = (item["metadata"].get("namespace") or "", item["metadata"]["name"])
                if key not in seen:
                    seen.add(key)
                    yield {**item, "apiVersion": self._kind.api_version, "kind": self._kind.kind}
            token = page["metadata"].get("continue") or ""
            if not token:
                return
            factor = 2 if size_bytes < PAGE_BYTES else 0.5
            page_objects = max(1, min(int(page_objects * factor), self._largest_page_objects))

    def _query(self, page_objects: int, token: str) -> dict[str, str]:
        query = {"limit": str(page_objects)}
        if token:
            query["continue"] = token
        elif self._revision:
            query |= {"resourceVersion": self._revision, "resourceVersionMatch": "Exact"}
        return query

    def _may_begin_again(self, error: ApiRefusalError, token: str) -> bool:
        """Tell whether the list may begin again from its start, as it is now: the server lost that moment."""
        if self._revision and (error.status in (400, 410, 504) or error.status >= 500):
            self._revision = None
            return True
        if token and error.status == 410 and self.restarts < MOST_RESTARTS:
            self.restarts += 1
            return True
        return False


def _is_passing(method: str, status: int, raw: bytes, *, is_trial: bool) -> bool:
    """Tell whether the same question may be answered in a moment; an object that cannot be decoded is a 500 too."""
    if status == 500 and method != "GET":
        return says_later(raw) and not is_trial
    return status in (429, 500, 502, 503, 504) and not is_of_revision(raw)
