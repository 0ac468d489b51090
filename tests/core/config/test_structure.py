"""Tables into config classes: strict types, bounds, choices, secrets, every problem at once with its path."""

from __future__ import annotations

import enum
from pathlib import Path
from typing import Any, Literal

import attrs
import pytest

from nodewright.config.names import listed, nearest, suggestion
from nodewright.config.secrets import secret_name, secret_variable
from nodewright.config.structure import Mismatches, plain, structure
from nodewright.plugins.specs import NoConfig, setting

config_class: Any = attrs.define


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


@config_class
class Inner:
    port: int = setting(help="a port", minimum=0, maximum=65535)
    name: str = setting("x", help="a name")


@config_class
class Everything:
    count: int = setting(3, help="how many", minimum=1, maximum=10)
    ratio: float = setting(0.5, help="a share", minimum=0)
    name: str = setting("n", help="a name")
    flag: bool = setting(False, help="on or off")
    path: Path = setting(factory=lambda: Path("p"), help="where")
    key: bytes = setting(b"", help="hexadecimal")
    level: str = setting("low", help="a choice", choices=("low", "high"))
    mode: Literal["fast", "safe"] = setting("fast", help="a literal")
    colour: Colour = setting(Colour.RED, help="an enum")
    hosts: list[str] = setting(factory=list, help="some")
    pair: tuple[int, str] = setting((1, "a"), help="two")
    limits: dict[str, int] = setting(factory=dict, help="by name")
    inner: Inner | None = setting(None, help="a table")
    inners: list[Inner] = setting(factory=list, help="tables")
    either: int | str = setting(0, help="one or the other")
    anything: Any = setting(None, help="whatever")
    password: str | None = setting(None, help="never here", secret=True)


def wrong(table: dict[str, Any], config: type[Any] = Everything) -> dict[str, str]:
    with pytest.raises(Mismatches) as caught:
        structure(config, table)
    return {".".join(mismatch.path): mismatch.message for mismatch in caught.value.found}


def test_everything_right() -> None:
    made = structure(
        Everything,
        {
            "count": 4,
            "ratio": 1,
            "path": "/a",
            "key": "00ff",
            "level": "high",
            "mode": "safe",
            "colour": "blue",
            "hosts": ["a", "b"],
            "pair": [2, "b"],
            "limits": {"x": 1},
            "inner": {"port": 80},
            "inners": [{"port": 1}, {"port": 2, "name": "y"}],
            "either": "text",
            "anything": {"deep": [1, 2.5]},
        },
    )
    assert made.ratio == 1.0 and isinstance(made.ratio, float)
    assert made.path == Path("/a") and made.key == b"\x00\xff" and made.colour is Colour.BLUE
    assert made.pair == (2, "b") and made.inner == Inner(80) and made.inners[1] == Inner(2, "y")
    assert plain(made)["key"] == "00ff" and plain(made)["colour"] == "blue"
    assert plain(made)["inners"] == [{"port": 1, "name": "x"}, {"port": 2, "name": "y"}]


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"count": "4"}, "must be a whole number, not the string '4'"),
        ({"count": True}, "must be a whole number, not true"),
        ({"count": 4.0}, "must be a whole number, not the number 4.0"),
        ({"count": 0}, "must be at least 1, not 0"),
        ({"count": 11}, "must be at most 10, not 11"),
        ({"ratio": "1"}, "must be a number, not the string '1'"),
        ({"ratio": float("nan")}, "must be a number, not the number nan"),
        ({"ratio": 10**400}, "must be a number, not the number 1" + "0" * 400),
        ({"ratio": -0.5}, "must be at least 0, not -0.5"),
        ({"name": 3}, "must be a string, not the number 3"),
        ({"flag": 1}, "must be true or false, not the number 1"),
        ({"flag": "true"}, "must be true or false, not the string 'true'"),
        ({"path": 1}, "must be a path in quotes, not the number 1"),
        ({"key": "xyz"}, "must be a string of hexadecimal digits, not the string 'xyz'"),
        ({"level": "mid"}, "must be one of 'low', 'high', not the string 'mid'"),
        ({"mode": "slow"}, "must be one of 'fast', 'safe', not the string 'slow'"),
        ({"colour": "green"}, "must be one of 'red', 'blue', not the string 'green'"),
        ({"hosts": "abc"}, "must be a list, not the string 'abc'"),
        ({"pair": [1]}, "must be a list of 2 values, not of 1"),
        ({"limits": []}, "must be a table, not a list"),
        ({"inner": 3}, "must be a table, not the number 3"),
        ({"either": []}, "must be a whole number or a string, not a list"),
        ({"cuont": 1}, "unknown key; did you mean 'count'?"),
    ],
)
def test_one_thing_wrong(table: dict[str, Any], message: str) -> None:
    assert wrong(table) == {next(iter(table)): message}


def test_problems_deep_inside_have_their_path() -> None:
    assert wrong(
        {"hosts": ["a", 2], "limits": {"x": "y"}, "inners": [{"port": 1}, {"prot": 2}], "inner": {"port": -1}}
    ) == {
        "hosts.1": "must be a string, not the number 2",
        "limits.x": "must be a whole number, not the string 'y'",
        "inners.1.prot": "unknown key; did you mean 'port'?",
        "inners.1.port": "missing, and has no default: a port",
        "inner.port": "must be at least 0, not -1",
    }


def test_an_unknown_key_unlike_any_lists_what_is_known() -> None:
    assert wrong({"port": 1, "zzzzzz": 1}, Inner) == {"zzzzzz": "unknown key; known are name, port"}
    assert wrong({"a": 1}, NoConfig) == {"a": "unknown key; there is nothing to set"}


def test_a_secret_is_refused_and_never_shown() -> None:
    with pytest.raises(Mismatches) as caught:
        structure(Everything, {"password": "hush"})
    (mismatch,) = caught.value.found
    assert mismatch.secret and "hush" not in mismatch.message
    assert plain(Everything(password="hush"))["password"] == "(secret)"


def test_names_of_secrets() -> None:
    assert secret_name("stores.utxo", "password") == "stores_utxo_password"
    assert secret_name("services.bsv_api", "rpc_password") == "bsv_api_rpc_password"
    assert secret_variable("stores_utxo_password") == "NODEWRIGHT_STORES_UTXO_PASSWORD"


def test_what_a_class_itself_refuses_is_a_problem_of_its_table() -> None:
    @config_class
    class Picky:
        low: int = setting(1, help="low")

        def __attrs_post_init__(self) -> None:
            if self.low == 7:
                raise ValueError("seven is taken")

    assert wrong({"low": 7}, Picky) == {"": "seven is taken"}


def test_nearest_names() -> None:
    assert nearest("levledb", ["leveldb", "memory"]) == "leveldb"
    assert nearest("LevelDB", ["leveldb"]) == "leveldb"
    assert nearest("zzz", ["leveldb"]) is None
    assert suggestion("zzz", []) == ""
    assert listed(str(number) for number in range(30)).endswith("and 10 more")
