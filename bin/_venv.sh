# Sourced by bin/demo and bin/test: makes .venv in the checkout if it is missing, installs what "$1" (pip extras) needs once.
# Sets PYTHON to the environment's interpreter. POSIX sh.
ROOT=$(CDPATH= cd -- "$(dirname -- "$0")/.." && pwd)
VENV="$ROOT/.venv"
PYTHON="$VENV/bin/python"

find_python() {
    for candidate in ${NODEWRIGHT_PYTHON:-} python3.11 python3.12 python3.13 python3; do
        if command -v "$candidate" >/dev/null 2>&1 &&
            "$candidate" -c 'import sys; raise SystemExit(sys.version_info < (3, 11))' 2>/dev/null; then
            command -v "$candidate"
            return 0
        fi
    done
    echo "Python 3.11 or newer is needed: install it, or name it by NODEWRIGHT_PYTHON=/path/to/python" >&2
    return 1
}

install_extras() {
    extras=$1
    if [ ! -x "$PYTHON" ]; then
        base=$(find_python) || exit 1
        echo "making $VENV with $base"
        "$base" -m venv "$VENV" || { echo "python -m venv failed: install the venv module of your Python" >&2; exit 1; }
    fi
    # The stamp holds what was installed and from which pyproject: unchanged means nothing to do, also without a network.
    wanted="$extras $(cksum <"$ROOT/pyproject.toml")"
    stamp="$VENV/.nodewright-installed-$(printf %s "$extras" | tr -c 'a-z' '-')"
    if [ "$(cat "$stamp" 2>/dev/null)" != "$wanted" ]; then
        echo "installing nodewright[$extras]"
        "$PYTHON" -m pip install --quiet --disable-pip-version-check -e "$ROOT[$extras]" || exit 1
        printf %s "$wanted" >"$stamp"
    fi
}
