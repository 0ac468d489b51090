"""The command line over a small family that a one-file plugin brings: what each command prints, and how failures end."""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

from nodewright import genesis
from nodewright.cli.app import COMMANDS, invoke
from nodewright.errors import ConfigurationError, NodewrightError, StoreLocked

PLUGIN = '''
import attrs
import click
from nodewright.plugins.hooks import hookimpl
from nodewright.plugins.specs import *
from nodewright.plugins.specs import setting

def opened(config, dependencies, environment):
    raise AssertionError("opened")

@attrs.define
class ApiConfig:
    listen: str = setting("127.0.0.1:0", help="host:port")
    password: str | None = setting(None, help="of the API", secret=True)
    hosts: list[str] = setting(factory=list, help="who may")

@hookimpl
def register_execution():
    return [ExecutionSpec(name="tiny", summary="tiny execution", open=opened,
                          requires=(Requirement("stores.utxo", "utxo"),))]

@hookimpl
def register_consensus():
    return [ConsensusSpec(name="tiny", summary="tiny consensus", open=opened,
                          requires=(Requirement("execution", "execution"), Requirement("stores.chain", "key-value")))]

@hookimpl
def register_services():
    return [ServiceSpec(name="tiny_api", summary="tiny api", open=opened, config=ApiConfig)]

@hookimpl
def register_profiles():
    return {"tiny": """
profile = "tiny"
family = "tiny"
[network]
id = "tinynet"
[genesis.document]
time = 5
[stores.utxo]
use = "memory"
[stores.chain]
use = "memory"
[execution]
use = "tiny"
[consensus]
use = "tiny"
[services.tiny_api]
"""}

@hookimpl
def register_commands(cli):
    @cli.command()
    @click.argument("how")
    def wave(how):
        """Wave."""
        if how == "ours":
            raise __import__("nodewright.errors").errors.StoreLocked("somebody is here")
        if how == "theirs":
            raise ValueError("an accident")
        click.echo(f"waving {how}")
'''


@pytest.fixture
def run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., tuple[int, str, str]]:
    folder = tmp_path / "plugins"
    folder.mkdir()
    (folder / "tiny.py").write_text(PLUGIN)
    monkeypatch.setenv("NODEWRIGHT_PLUGINS_DIR", str(folder))
    monkeypatch.delenv("NODEWRIGHT_DEBUG", raising=False)

    def call(*arguments: str | Path) -> tuple[int, str, str]:
        code = invoke([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        return code, out, err

    return call


Run = Callable[..., tuple[int, str, str]]


def test_check_says_ok(run: Run) -> None:
    code, out, _ = run("check", "tiny")
    assert code == 0
    assert out.startswith("OK: tiny: family tiny, network tinynet, 5 components, genesis ")


def test_check_says_every_problem_on_a_line(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text('extends = "tiny"\n[pool]\nmax_bites = 1\n[stores.utxo]\nuse = "memry"\n')
    code, out, err = run("check", file, "--set", "log.level=loud")
    assert (code, out) == (2, "")
    assert err.splitlines() == [
        f"error: {file}, line 3: pool.max_bites: unknown key; did you mean 'max_bytes'?",
        "error: --set: log.level: must be one of 'debug', 'info', 'warning', 'error', not the string 'loud'",
        f"error: {file}, line 5: stores.utxo: no installed plugin has a storage 'memry'; did you mean 'memory'?",
    ]


def test_check_reads_the_genesis(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text('extends = "tiny"\n[genesis]\nfile = "no.json"\n')
    code, _, err = run("check", file)
    assert code == 2 and "no.json cannot be read" in err  # the base's document has given way to it
    file.write_text('extends = "tiny"\n[genesis.document]\ntime = -1\n')
    code, _, err = run("check", file)
    assert code == 2 and "time must be whole Unix seconds" in err


def test_check_refuses_a_genesis_of_another_family(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text('extends = "tiny"\nfamily = "other"\n[genesis.document]\nfamily = "tiny"\n')
    code, _, err = run("check", file)
    assert code == 2 and "name the same family in both" in err


def test_a_built_genesis_file_replaces_the_document_it_was_built_from(run: Run, tmp_path: Path) -> None:
    built, file = tmp_path / "g.json", tmp_path / "mine.toml"
    assert run("genesis", "build", "-o", built, "tiny")[0] == 0
    file.write_text('extends = "tiny"\n[genesis]\nfile = "g.json"\n')
    assert run("check", file)[0] == 0
    assert run("check", "tiny", "--set", f"genesis.file={built}")[0] == 0


def test_check_notes_broken_plugins_that_do_not_matter(run: Run, tmp_path: Path) -> None:
    (tmp_path / "plugins" / "sad.py").write_text("1 / 0")
    code, _, err = run("check", "tiny")
    assert code == 0
    assert "note: not needed here, but broken: plugin 'sad'" in err and "ZeroDivisionError" in err


def test_show_is_toml_again_with_origins(run: Run) -> None:
    code, out, _ = run("show", "tiny", "--set", "pool.max_bytes=2097152", "--set", 'services.tiny_api.hosts=["a", "b"]')
    assert code == 0
    values = tomllib.loads(out)
    assert values["pool"]["max_bytes"] == 2097152
    assert values["services"]["tiny_api"]["hosts"] == ["a", "b"]
    assert values["genesis"]["document"] == {"time": 5}
    lines = {line.split(" = ")[0].strip(): line.rpartition("# ")[2] for line in out.splitlines() if " = " in line}
    assert lines["hosts"] == "--set"
    assert lines["profile"] == "profile tiny, line 2"
    assert lines["listen"] == "default of tiny_api"
    assert lines["level"] == "default"


def test_show_as_json(run: Run) -> None:
    _, out, _ = run("show", "tiny", "--json")
    shown = json.loads(out)
    assert shown["network.id"] == {"value": "tinynet", "source": "profile tiny", "line": 5}
    assert shown["services.tiny_api.password"]["value"] is None


def test_graph(run: Run) -> None:
    code, out, _ = run("graph", "tiny")
    assert code == 0
    assert out == (
        "tiny: family tiny, network tinynet\n"
        "├─ consensus: tiny\n"
        "│  ├─ execution: tiny [execution]\n"
        "│  │  └─ stores.utxo: memory [utxo, by adapter]\n"
        "│  └─ stores.chain: memory [key-value]\n"
        "└─ services.tiny_api: tiny_api\n"
        "\n"
        "opens: stores.utxo → stores.chain → execution → consensus → services.tiny_api\n"
    )


def test_graph_as_dot(run: Run) -> None:
    _, out, _ = run("graph", "tiny", "--dot")
    assert out.startswith('digraph "tiny" {') and out.endswith("}\n")
    assert '  "execution" -> "stores.utxo" [label="utxo, by adapter"];' in out


def test_plugins(run: Run, tmp_path: Path) -> None:
    (tmp_path / "plugins" / "sad.py").write_text("1 / 0")
    code, out, _ = run("plugins", "--settings")
    assert code == 0
    for words in (
        "    execution tiny: tiny execution",
        "        requires stores.utxo (utxo)",
        "        provides key-value, ordered, snapshot, volatile",
        '        listen: a string, default "127.0.0.1:0". host:port',
        "        password: a string, secret: from the environment or a file, never from a profile. of the API",
        "        hosts: a list, default []. who may",
        "    profile tiny",
    ):
        assert words in out.splitlines()
    assert "BROKEN sad" in out and "ZeroDivisionError" in out


def test_plugins_as_json(run: Run, tmp_path: Path) -> None:
    (tmp_path / "plugins" / "sad.py").write_text("1 / 0")
    found = json.loads(run("plugins", "--json")[1])
    tiny = next(plugin for plugin in found["plugins"] if plugin["name"] == "tiny")
    assert tiny["distribution"] is None and tiny["profiles"] == ["tiny"]
    assert [component["kind"] for component in tiny["components"]] == ["execution", "consensus", "service"]
    assert "sad" in [broken["name"] for broken in found["broken"]]


def test_plugins_of_a_folder_that_is_none(run: Run, tmp_path: Path) -> None:
    code, _, err = run("plugins", "--plugins-dir", tmp_path / "no")
    assert code == 2 and err == f"error: the plugins directory {tmp_path / 'no'} is not a directory\n"


def test_genesis_build_and_show(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "genesis.json"
    code, out, _ = run("genesis", "build", "-o", file, "tiny", "--set", "network.id=othernet")
    assert code == 0
    made = genesis.load(file)
    assert made.network == "othernet" and made.family == "tiny" and made.time == 5
    assert out == f"{file}: network othernet, hash {made.hash.hex()}\n"
    code, out, _ = run("genesis", "show", file)
    assert code == 0 and f"# hash {made.hash.hex()}" in out
    assert json.loads("".join(line for line in out.splitlines() if not line.startswith("#"))) == made.document()
    code, _, err = run("genesis", "build", "-o", file, "tiny")
    assert code == 2 and "exists: remove it first" in err


def test_genesis_show_of_a_network_that_comes_with_the_package(run: Run) -> None:
    code, out, _ = run("genesis", "show", "regtest")
    assert code == 0 and "# network regtest, family bitcoin, time 2011-02-02T23:16:42+00:00" in out


def test_version_loads_no_plugin(run: Run, tmp_path: Path) -> None:
    (tmp_path / "plugins" / "loud.py").write_text("raise SystemExit('imported')")
    code, out, err = run("version")
    assert code == 0 and out.startswith("nodewright ") and err == ""


def test_a_quick_command_imports_neither_trio_nor_plugins() -> None:
    code = (
        "import sys; from nodewright.cli.app import invoke; invoke(['version']); "
        "print([m for m in sys.modules if m.split('.')[0] in ('trio', 'cattrs', 'numba', 'nodewright_bitcoin')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


# --- commands of plugins ---------------------------------------------------------------------------------------------


def test_a_command_of_a_plugin(run: Run) -> None:
    assert run("wave", "hello")[:2] == (0, "waving hello\n")
    assert "wave" in run("--help")[1]


def test_plugins_before_the_command(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NODEWRIGHT_PLUGINS_DIR")
    folder = tmp_path / "plugins"
    assert run("--plugins-dir", folder, "wave", "hello")[0] == 0
    assert run("--plugins-dir", folder, "check", "tiny")[0] == 0
    assert run("check", "tiny", "--plugins-dir", folder)[0] == 0
    assert "wave" in run("--plugins-dir", folder, "--help")[1]
    code, _, err = run("check", "tiny")
    assert code == 2 and "no installed plugin has a profile 'tiny'" in err


@pytest.mark.parametrize("name", ["check", "wave"])
def test_a_taken_command_is_refused_and_said(run: Run, tmp_path: Path, name: str) -> None:
    (tmp_path / "plugins" / "zealous.py").write_text(
        "import click\nfrom nodewright.plugins.hooks import hookimpl\n"
        f"@hookimpl\ndef register_commands(cli):\n    cli.add_command(click.Command('{name}'))\n"
    )
    code, out, err = run("wave", "hello")
    assert (code, out) == (0, "waving hello\n")
    assert f"register_commands failed: PluginError: the command '{name}' is taken" in err


def test_an_unknown_command_suggests(run: Run) -> None:
    code, _, err = run("chekc")
    assert code == 2 and "no such command 'chekc'; did you mean 'check'?" in err


@pytest.mark.parametrize("command", COMMANDS)
def test_help_is_worth_reading(run: Run, command: str) -> None:
    code, out, _ = run(command, "--help")
    assert code == 0
    assert len(out.splitlines()) > 6
    assert "nodewright" in out


# --- how failures end ------------------------------------------------------------------------------------------------


def test_our_errors_are_a_sentence_and_their_code(run: Run) -> None:
    assert run("wave", "ours") == (2, "", "error: somebody is here\n")
    assert StoreLocked.exit_code == 2


def test_other_errors_are_a_sentence_without_a_traceback(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run("wave", "theirs") == (
        1,
        "",
        "error: unexpected ValueError: an accident (NODEWRIGHT_DEBUG=1 shows where)\n",
    )
    monkeypatch.setenv("NODEWRIGHT_DEBUG", "1")
    code, _, err = run("wave", "theirs")
    assert code == 1 and "Traceback" in err


@pytest.mark.parametrize(
    ("error", "code", "lines"),
    [
        (ConfigurationError(["one", "two"]), 2, ["error: one", "error: two"]),
        (NodewrightError(""), 1, ["error: NodewrightError"]),
        (
            ExceptionGroup("", [ConfigurationError("one"), ExceptionGroup("", [ConfigurationError("one")])]),
            2,
            ["error: one"],
        ),
        (
            ExceptionGroup("", [ConfigurationError("one"), KeyError("x")]),
            1,
            ["error: one", "error: unexpected KeyError: 'x' (NODEWRIGHT_DEBUG=1 shows where)"],
        ),
        (KeyboardInterrupt(), 130, []),
        (BaseExceptionGroup("", [KeyboardInterrupt()]), 130, []),
    ],
)
def test_what_a_node_dies_of(
    run: Run, monkeypatch: pytest.MonkeyPatch, error: BaseException, code: int, lines: list[str]
) -> None:
    import nodewright.cli.check as module

    def fail(plan: object) -> None:
        raise error

    monkeypatch.setattr(module, "plan_genesis", fail)
    ended, _, err = run("check", "tiny")
    assert (ended, err.split("\n")[:-1] if err.strip() else []) == (code, lines)


def test_wrong_usage(run: Run) -> None:
    code, _, err = run("check")
    assert code == 2 and "Missing argument 'PROFILE|FILE.toml'" in err
    assert run("check", "tiny", "--nonsense")[0] == 2


def test_python_dash_m() -> None:
    done = subprocess.run([sys.executable, "-m", "nodewright", "version"], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and done.stdout.startswith("nodewright ")


def test_the_reader_of_our_output_may_go_away() -> None:
    command = f"{sys.executable} -m nodewright plugins --settings | true"
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, timeout=120)
    assert "Traceback" not in done.stderr and "Exception" not in done.stderr


# --- the profiles that come with the package --------------------------------------------------------------------------


def test_teranode_composes(run: Run) -> None:
    code, out, err = run("check", "teranode")
    assert code == 0, err
    assert out.startswith("OK: teranode: family bitcoin, network regtest, 8 components")
    assert "stores.utxo: leveldb [utxo, by adapter]" in run("graph", "teranode")[1]
