"""``lightning-lottery completion``: a script by which a shell completes subcommands, options and files."""

from collections.abc import Sequence

from lightning_lottery.command.subcommands import SUBCOMMANDS, options_of

SCRIPT = """\
# In ~/.bashrc: source <(lightning-lottery completion)
# In ~/.zshrc the same, after: autoload -U +X bashcompinit && bashcompinit
_lightning_lottery() {{
    local word="${{COMP_WORDS[COMP_CWORD]}}" words=""
    if [ "$COMP_CWORD" -eq 1 ]; then
        words="{subcommands}"
    elif [[ "$word" == -* ]]; then
        case "${{COMP_WORDS[1]}}" in
{cases}
        esac
    fi
    COMPREPLY=($(compgen -W "$words" -- "$word"))
}}
complete -o default -F _lightning_lottery lightning-lottery
"""


def completion(arguments: Sequence[str]) -> None:
    """Print the script; where it has no word to offer, the shell offers files."""
    from lightning_lottery.command.options import words_of  # the parser takes long to import

    words_of("completion", arguments)
    print(script(), end="")  # noqa: T201


def script() -> str:
    """The script, for bash and, by its ``bashcompinit``, for zsh."""
    cases = []
    for name, subcommand in SUBCOMMANDS.items():
        options = (*options_of(name), "help", *(("help_all",) if subcommand.is_on_project else ()))
        cases.append(f'            {name}) words="{" ".join(f"--{option}" for option in options)}" ;;')
    return SCRIPT.format(subcommands=" ".join(SUBCOMMANDS), cases="\n".join(cases))
