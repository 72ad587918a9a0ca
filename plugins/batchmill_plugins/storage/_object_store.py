"""Storage on S3 and compatible stores, Google Cloud Storage and Azure, over the obstore client."""

from __future__ import annotations

import builtins
import re
from collections.abc import Callable, Iterator
from typing import TypeVar
from urllib.parse import unquote, urlsplit

import obstore
from obstore.exceptions import AlreadyExistsError
from obstore.store import LocalStore, MemoryStore, ObjectStore, from_url

from batchmill import ConfigError, ObjectInfo, ObjectNotFoundError, Storage, StorageError
from batchmill_plugins.storage._paths import check_path, check_prefix

_T = TypeVar("_T")
_LIST_PAGE = 1000
_QUERY = re.compile(r"\?[^\s\"']+")


class ObjectStorage(Storage):
    """Objects below a URL prefix. Endpoint, region and credentials come from the environment (``AWS_*``).

    Args:
        url: For example ``s3://bucket/runs``; ``file:///folder`` serves to try the client without a server.
        store: A ready obstore client whose root is the URL's prefix, instead of one made from the URL.

    Raises:
        ConfigError: The URL cannot be understood or carries a secret.
        StorageError: The client cannot be made, for example because an account is missing.
    """

    def __init__(self, url: str, store: ObjectStore | None = None) -> None:
        self.url = url.rstrip("/")
        self._store = _connect(url) if store is None else store
        self._refuses_existing = isinstance(self._store, (LocalStore, MemoryStore))

    def put(self, path: str, data: bytes) -> None:
        """See ``Storage.put``."""
        # A copy, because the client keeps a reference to the buffer while its threads still upload.
        kept = bytes(data)
        self._call("write", path, lambda name: obstore.put(self._store, name, kept))

    def put_if_absent(self, path: str, data: bytes) -> bool:
        """See ``Storage.put_if_absent``.

        Raises:
            StorageError: The answer is unclear, or the server ignores the condition and overwrites.
        """
        kept = bytes(data)
        if not self._create(path, kept):
            return False
        if not self._refuses_existing:
            # Some S3 servers accept the condition and overwrite all the same. Asked once, with equal bytes.
            if self._create(path, kept):
                raise StorageError(
                    f"{self.url} overwrites an existing object although it was asked not to (If-None-Match), "
                    f"so results could not be committed exactly once there. Use a store that supports "
                    f"conditional writes, or storage=local."
                )
            self._refuses_existing = True
        return True

    def get(self, path: str) -> bytes:
        """See ``Storage.get``."""
        return self._call("read", path, lambda name: obstore.get(self._store, name).bytes().to_bytes())

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """See ``Storage.list``."""
        folder = check_prefix(prefix)

        def collect(_: str) -> builtins.list[ObjectInfo]:
            pages = obstore.list(self._store, folder or None, chunk_size=_LIST_PAGE)
            return [ObjectInfo(meta["path"], meta["size"]) for page in pages for meta in page]

        yield from sorted(self._call("list", folder, collect, checked=True), key=lambda info: info.path)

    def list_folders(self, prefix: str = "") -> builtins.list[str]:
        """See ``Storage.list_folders``."""
        folder = check_prefix(prefix)
        found = self._call(
            "list", folder, lambda name: obstore.list_with_delimiter(self._store, name or None), checked=True
        )
        return sorted(path.rpartition("/")[2] for path in found["common_prefixes"])

    def delete(self, path: str) -> None:
        """See ``Storage.delete``."""
        try:
            self._call("delete", path, lambda name: obstore.delete(self._store, name))
        except ObjectNotFoundError:  # some stores tell, most do not
            return

    def exists(self, path: str) -> bool:
        """See ``Storage.exists``."""
        try:
            self._call("look up", path, lambda name: obstore.head(self._store, name))
        except ObjectNotFoundError:
            return False
        return True

    def _create(self, path: str, data: bytes) -> bool:
        def create(name: str) -> bool:
            try:
                # Never in parts: a conditional multipart upload must start again after a conflict.
                obstore.put(self._store, name, data, mode="create", use_multipart=False)
            except AlreadyExistsError:
                return False
            return True

        return self._call("create", path, create)

    def _call(self, action: str, path: str, call: Callable[[str], _T], checked: bool = False) -> _T:
        name = path if checked else check_path(path)
        try:
            return call(name)
        except FileNotFoundError as error:
            raise ObjectNotFoundError(f"There is no object {path!r} in {self.url}.") from error
        except Exception as error:  # the client raises its own family, OSError, ValueError and more
            where = f"{path!r} in {self.url}" if path else self.url
            raise StorageError(f"Could not {action} {where}: {_brief(error)}") from error


def _connect(url: str) -> ObjectStore:
    parts = urlsplit(url)
    if parts.query or parts.password:
        raise ConfigError(
            f"The output URL {parts.scheme}://{parts.hostname or ''}{parts.path} carries credentials or a "
            f"query. URLs are written to run folders and logs; put credentials into the environment instead."
        )
    if not parts.scheme or not (parts.netloc or parts.scheme == "file"):
        raise ConfigError(
            f"storage=object_store needs an output URL such as s3://bucket/runs, but it is {url!r}. "
            f"For a folder use storage=local."
        )
    try:
        if parts.scheme == "file":
            return LocalStore(unquote(parts.path), automatic_cleanup=True, mkdir=True)
        return from_url(url)
    except Exception as error:  # see _call
        raise StorageError(
            f"Could not open {url}: {_brief(error)} The client reads its settings from the environment, for "
            f"example AWS_ACCESS_KEY_ID, AWS_ENDPOINT_URL, GOOGLE_APPLICATION_CREDENTIALS or "
            f"AZURE_STORAGE_ACCOUNT_NAME."
        ) from error


def _brief(error: Exception) -> str:
    # The rest is the client's internal state, and a query in a URL may be a signature.
    text = str(error).partition("\n\nDebug source")[0].strip() or type(error).__name__
    return _QUERY.sub("?...", text).rstrip(".") + "."
