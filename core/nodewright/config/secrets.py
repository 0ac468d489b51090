"""Names of secrets. A setting marked ``secret`` never stands in a profile; its component asks the environment for it::

password = environment.secret(secret_name(environment.slot, "password"))
"""

from __future__ import annotations

import re


def secret_name(slot: str, key: str) -> str:
    """``stores.utxo`` and ``password`` give ``stores_utxo_password``; of a service ``services.bsv_api`` the first word
    is left out. It names the file under ``<data-dir>/secrets`` and, in capitals after ``NODEWRIGHT_``, the variable."""
    return re.sub(r"[^a-z0-9]+", "_", f"{slot.removeprefix('services.')}.{key}".lower())


def secret_variable(name: str) -> str:
    return f"NODEWRIGHT_{name.upper()}"
