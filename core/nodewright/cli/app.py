"""``nodewright``: the group of commands, and how a failure becomes a sentence and an exit code.

Commands are imported when they are called, and plugins are loaded only where a command, the list of commands or an
unknown name asks for them, so that ``nodewright version`` is quick and no broken plugin stands in its way.

Exit codes: 0 done, 1 failed, 2 wrong configuration or usage, 130 interrupted.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import click

from nodewright.errors import ConfigurationError, NodewrightError, PluginError

DEBUG_VARIABLE = "NODEWRIGHT_DEBUG"
COMMANDS = ("bench", "check", "db", "devnet", "genesis", "graph", "plugins", "run", "show", "verify", "version")
PLUGIN_COMMANDS_KEY = "nodewright.plugin_commands"  # in click's context
FILLED_BY_PLUGINS = frozenset({"bench"})  # groups of the core whose commands come from plugins


class PluginCommands(click.Group):
    """What plugins are given to add to: refuses names that are taken."""

    def add_command(self, cmd: click.Command, name: str | None = None) -> None:
        name = name or cmd.name
        if name in COMMANDS or name in self.commands:
            raise PluginError(f"the command {name!r} is taken")
        super().add_command(cmd, name)


class LazyCommands(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted({*COMMANDS, *self.plugin_commands(ctx).commands})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return self.plugin_commands(ctx).commands.get(cmd_name)
        if cmd_name in FILLED_BY_PLUGINS:
            self.plugin_commands(ctx)
        command = getattr(importlib.import_module(f"nodewright.cli.{cmd_name}"), cmd_name)
        assert isinstance(command, click.Command)
        return command

    def resolve_command(self, ctx: click.Context, args: list[str]) -> tuple[str | None, click.Command | None, list[str]]:
        if args and not args[0].startswith("-") and self.get_command(ctx, args[0]) is None:
            from nodewright.config.names import suggestion

            ctx.fail(f"no such command {args[0]!r}{suggestion(args[0], self.list_commands(ctx))}")
        return super().resolve_command(ctx, args)

    def plugin_commands(self, ctx: click.Context) -> PluginCommands:
        """Asked of the plugins once for each command line."""
        found = ctx.find_root().meta.get(PLUGIN_COMMANDS_KEY)
        if isinstance(found, PluginCommands):
            return found
        from nodewright.cli.common import directories
        from nodewright.plugins.host import PluginHost

        commands = PluginCommands("plugins")
        ctx.find_root().meta[PLUGIN_COMMANDS_KEY] = commands
        for broken in PluginHost(directories(ctx)).notify("register_commands", cli=commands):
            click.echo(f"warning: {broken}", err=True)
        return commands


def _remember_directories(context: click.Context, _: click.Parameter, value: tuple[Path, ...]) -> None:
    if value:
        from nodewright.cli.common import DIRECTORIES_KEY

        context.find_root().meta[DIRECTORIES_KEY] = value


@click.group(cls=LazyCommands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option(
    "--plugins-dir",
    type=click.Path(path_type=Path),
    multiple=True,
    metavar="DIR",
    is_eager=True,
    expose_value=False,
    callback=_remember_directories,
    help="Also load every *.py file of DIR as a plugin. Repeatable; also NODEWRIGHT_PLUGINS_DIR.",
)
def cli() -> None:
    """A blockchain node composed from plugins by one TOML profile.

    \b
    nodewright run teranode                       a node, in the foreground
    nodewright devnet teranode --nodes 3          a local network of three
    nodewright check mine.toml                    is this profile right?
    nodewright show teranode                      every setting, and where its value is from
    nodewright verify teranode                    has a stopped node lost anything?
    nodewright plugins                            what is installed

    A profile is a name that `nodewright plugins` lists, or the path of a .toml file, which may say
    `extends = "teranode"` and change only what differs.
    """


def invoke(arguments: Sequence[str] | None = None) -> int:
    """Run a command line; returns its exit code, having said what went wrong on standard error."""
    try:
        context_settings = list(arguments) if arguments is not None else None
        code = cli.main(args=context_settings, prog_name="nodewright", standalone_mode=False)
        sys.stdout.flush()
        return code if isinstance(code, int) else 0
    except click.ClickException as error:
        with suppress(OSError):
            error.show()
        return error.exit_code
    except BrokenPipeError:  # the reader of our output is gone; nothing is left to say to it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (KeyboardInterrupt, click.Abort):
        return 130
    except BaseException as error:
        if isinstance(error, SystemExit):
            raise
        return _report(error)


def _report(error: BaseException) -> int:
    if os.environ.get(DEBUG_VARIABLE) == "1":
        import traceback

        traceback.print_exception(error)
    leaves = list(_leaves(error))
    expected = [leaf for leaf in leaves if isinstance(leaf, NodewrightError)]
    unexpected = [leaf for leaf in leaves if not isinstance(leaf, NodewrightError | KeyboardInterrupt)]
    for sentence in dict.fromkeys(sentence for leaf in expected for sentence in _sentences(leaf)):
        _say(f"error: {sentence}")
    for leaf in unexpected:
        text = " ".join(str(leaf).split()) or "no message"
        hint = "" if DEBUG_VARIABLE in os.environ else f" ({DEBUG_VARIABLE}=1 shows where)"
        _say(f"error: unexpected {type(leaf).__name__}: {text}{hint}")
    if unexpected:
        return 1
    return expected[0].exit_code if expected else 130


def _say(text: str) -> None:
    with suppress(OSError):  # a full disk must not change the exit code
        click.echo(text, err=True)


def _leaves(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from _leaves(inner)
    else:
        yield error


def _sentences(error: NodewrightError) -> list[str]:
    if isinstance(error, ConfigurationError):
        return error.problems
    return [str(error) or type(error).__name__]
