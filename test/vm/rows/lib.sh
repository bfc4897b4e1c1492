# What rows share. A row starts with `. /opt/vm/rows/lib.sh`, runs as root under
# systemd, and has failed if it exits with anything but 0; the last line that it
# writes is then its detail. It finds
#
#   /opt/vm/guest             internet, load: see `guest internet -help`
#   /opt/vm/bin/sallyport     the binary; /opt/vm/bin/PKG.test: compiled tests
#   /opt/vm/packages/*.deb    two versions, where its head says `needs: package`
#   $PHASE                    0, and one more after each reboot
set -euo pipefail
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/opt/vm/bin:/opt/vm

# fail WHY: ends the row.
fail() { echo "$*" >&2; exit 1; }

# figure NAME NUMBER: a number of the row's verdict.
figure() { echo "$1 $2" >>"$FIGURES"; }

# detail TEXT: what the verdict says when the row holds.
detail() { echo "$*" >"$DETAIL"; }

# again: reboots; the row is called again with the next $PHASE.
again() { sync; exit 194; }

# eventually SECONDS COMMAND…: until it holds, or the row fails.
eventually() {
    local limit=$((SECONDS + $1))
    shift
    until "$@"; do
        [ $SECONDS -lt $limit ] || fail "not within the time: $*"
        sleep 0.2
    done
}

# gotest NAME [ARGUMENT…]: compiled tests /opt/vm/bin/NAME.test; counts what
# passed, was skipped and failed, and names what did not pass.
gotest() {
    local name=$1 out=/opt/vm/$1.out status=0
    shift
    mkdir -p "/opt/vm/work/$name"
    (cd "/opt/vm/work/$name" && "/opt/vm/bin/$name.test" -test.v "$@") >"$out" 2>&1 || status=$?
    figure passed "$(grep -c '^ *--- PASS' "$out" || true)"
    figure skipped "$(grep -c '^ *--- SKIP' "$out" || true)"
    figure failed "$(grep -c '^ *--- FAIL' "$out" || true)"
    grep -A3 -E '^ *--- (SKIP|FAIL)' "$out" || true
    if [ $status -ne 0 ]; then
        tail -n 40 "$out"
        fail "$name: $(grep -E '^ *--- FAIL' "$out" | head -n 5 | tr -s ' \n' ' ')"
    fi
    grep -q '^ *--- PASS' "$out" || fail "$name: no test ran"
}
