"""Files, what they extend, and --set: one tree whose every value knows its origin."""

from __future__ import annotations

from pathlib import Path

import pytest

from nodewright.config.layer import MAX_TOML_BYTES, merge, parse_overrides, parse_toml
from nodewright.config.profile import Profile, ProfileText, load_profile, profile_from_text
from nodewright.errors import ConfigurationError

BASE = """\
profile = "base"
[stores.utxo]
use = "leveldb"
path = "here"
[pool]
max_bytes = 5
"""


def find(name: str) -> ProfileText:
    if name == "base":
        return ProfileText(BASE, "profile base", None)
    raise ConfigurationError(f"no profile {name!r}")


def load(path: Path, *overrides: str) -> Profile:
    return load_profile(str(path), find, overrides)


def problems(path: Path, *overrides: str) -> list[str]:
    with pytest.raises(ConfigurationError) as caught:
        load(path, *overrides)
    return caught.value.problems


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "mine.toml"


def test_extends_a_named_profile_and_keeps_origins(file: Path) -> None:
    file.write_text('extends = "base"\n\n[pool]\nmax_bytes = 7\n')
    profile = load(file)
    assert profile.value("pool", "max_bytes") == 7
    assert str(profile.origin("pool", "max_bytes")) == f"{file}, line 4"
    assert profile.value("stores", "utxo", "path") == "here"
    assert str(profile.origin("stores", "utxo", "path")) == "profile base, line 4"
    assert profile.value("extends") is None


def test_extends_a_file_relative_to_the_one_that_says_so(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "common.toml").write_text('extends = "base"\n[log]\nlevel = "debug"\n')
    (tmp_path / "sub" / "mine.toml").write_text('extends = "../common.toml"\n')
    profile = load(tmp_path / "sub" / "mine.toml")
    assert profile.value("log", "level") == "debug"
    assert profile.value("profile") == "base"
    assert profile.directory_of(("log", "level")).resolve() == tmp_path


def test_another_component_in_a_slot_drops_the_keys_of_the_one_before(file: Path) -> None:
    file.write_text('extends = "base"\n[stores.utxo]\nuse = "memory"\nmax_bytes = 1\n')
    profile = load(file)
    assert profile.value("stores", "utxo") == {"use": "memory", "max_bytes": 1}
    assert ("stores", "utxo", "path") not in profile.layer.origins


def test_the_same_component_keeps_them(file: Path) -> None:
    file.write_text('extends = "base"\n[stores.utxo]\nuse = "leveldb"\nblock = 1\n')
    assert load(file).value("stores", "utxo") == {"use": "leveldb", "path": "here", "block": 1}


def test_a_service_is_by_default_what_its_slot_is_called() -> None:
    base = parse_toml("[services.api]\nlisten = 'a'\n", "base")
    assert merge(base, parse_toml("[services.api]\nuse = 'api'\n", "over")).at(("services", "api", "listen")) == "a"
    assert merge(base, parse_toml("[services.api]\nuse = 'other'\n", "over")).at(("services", "api", "listen")) is None


def test_set_overrides_files(file: Path) -> None:
    file.write_text('extends = "base"\n')
    profile = load(file, "pool.max_bytes=9", "stores.utxo.use=memory", "new.table.key=[1, 2]", "pool.max_bytes=10")
    assert profile.value("pool", "max_bytes") == 10
    assert str(profile.origin("pool", "max_bytes")) == "--set"
    assert profile.value("stores", "utxo") == {"use": "memory"}
    assert profile.value("new", "table", "key") == [1, 2]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1", 1),
        ("1.5", 1.5),
        ("true", True),
        ('"1"', "1"),
        ("memory", "memory"),
        ("", ""),
        ("127.0.0.1:0", "127.0.0.1:0"),
        ("a=b", "a=b"),
        ("1\nb = 2", "1\nb = 2"),
        ("{x = 1}", {"x": 1}),
        ("9" * 5000, "9" * 5000),
    ],
)
def test_the_value_of_set_is_toml_or_else_text(text: str, value: object) -> None:
    assert parse_overrides((f"a.b={text}",)).at(("a", "b")) == value


def test_set_takes_quoted_keys() -> None:
    assert parse_overrides(('a."b.c"=1',)).at(("a", "b.c")) == 1


def test_bad_set_says_the_form(file: Path) -> None:
    file.write_text("[x\n")
    found = problems(file, "novalue", "=1", "a..b=2", "ok=1", "a=1\nb=2")
    assert len(found) == 4  # the file's and three of the command line's: all at once
    assert found[0].startswith(f"{file}: not valid TOML") and "line 1" in found[0]
    assert found[1] == "--set novalue: not of the form  --set table.key=value"


def test_extends_cannot_be_set(file: Path) -> None:
    file.write_text("")
    assert "write a file that extends it" in problems(file, "extends=base")[0]


def test_a_circle_is_told(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text('extends = "b.toml"\n')
    (tmp_path / "b.toml").write_text('\nextends = "a.toml"\n')
    (found,) = problems(tmp_path / "a.toml")
    assert found.startswith(f"{tmp_path / 'b.toml'}, line 2: extends: profiles extend each other in a circle: ")
    assert found.count("a.toml") == 2


def test_a_long_chain_is_told(tmp_path: Path) -> None:
    for number in range(20):
        (tmp_path / f"{number}.toml").write_text(f'extends = "{number + 1}.toml"\n')
    assert "more than 16 profiles extend one another" in problems(tmp_path / "0.toml")[0]


@pytest.mark.parametrize("text", ["extends = 3\n", 'extends = ""\n', "extends = []\n"])
def test_extends_of_another_type(file: Path, text: str) -> None:
    file.write_text(text)
    assert problems(file) == [f"{file}, line 1: extends: must be the name of a profile or the path of a .toml file"]


def test_a_base_that_is_not_there(file: Path) -> None:
    file.write_text('extends = "bass"\n')
    assert problems(file) == [f"{file}, line 1: extends: no profile 'bass'"]
    file.write_text('extends = "./bass.toml"\n')
    (found,) = problems(file)
    assert found.startswith(f"{file}, line 1: extends: cannot read the profile") and "there is no such file" in found


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    assert problems(tmp_path / "no.toml") == [f"cannot read the profile {tmp_path / 'no.toml'}: there is no such file"]
    (tmp_path / "dir.toml").mkdir()
    assert "cannot read the profile" in problems(tmp_path / "dir.toml")[0]


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"a = 1\na = 2\n", "not valid TOML"),
        (b"\xff", "not UTF-8"),
        (b"#" * (MAX_TOML_BYTES + 1), "larger than"),
        (b"a = " + b"[" * 100_000, "TOML"),
        (b"a = " + b"9" * 5000, "not valid TOML"),
    ],
)
def test_garbage_is_one_sentence(file: Path, data: bytes, words: str) -> None:
    file.write_bytes(data)
    (found,) = problems(file)
    assert words in found or "nested too deeply" in found
    assert str(file) in found


def test_a_text_without_a_file() -> None:
    profile = profile_from_text('extends = "base"\npool.max_bytes = 3\n', "generated", find, ("log.level=error",))
    assert profile.value("pool", "max_bytes") == 3
    assert str(profile.origin("pool", "max_bytes")) == "generated, line 2"
    assert profile.value("log", "level") == "error"
