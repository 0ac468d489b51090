"""The conformance kits of the storage contracts, for plugin authors to subclass.

::

    from nodewright.testing.storage import KeyValueStoreTests

    class TestMyStore(KeyValueStoreTests):
        capabilities = frozenset({"ordered", "snapshot"})

        @asynccontextmanager
        async def open_store(self, path):
            async with open_mystore(MyConfig(), Dependencies(), LocalEnvironment(path)) as store:
                yield store

``open_store`` is called again with the same path to reopen what was written there. A kit of a store that can be crashed in
the test process overrides ``crash`` and sets ``can_crash``; ``FolderKit`` does for one whose data is files of its folder.
``examples`` is how many programs Hypothesis tries.
"""

from nodewright.testing.storage_base import FolderKit, StoreKit
from nodewright.testing.storage_blob import BlobStoreTests
from nodewright.testing.storage_keyvalue import KeyValueStoreTests
from nodewright.testing.storage_lease import LeaseTests
from nodewright.testing.storage_utxo import UtxoStoreTests

__all__ = ["BlobStoreTests", "FolderKit", "KeyValueStoreTests", "LeaseTests", "StoreKit", "UtxoStoreTests"]
