"""The functions of every node: those of the framework. A third party's are added to them."""

from __future__ import annotations

from nodewright_aptos import framework, validators, views
from nodewright_aptos.functions import Functions


def installed_functions() -> Functions:
    functions = Functions()
    framework.install(functions)
    validators.install(functions)
    views.install(functions)
    return functions
