# kernels: 6.1 6.12 newest
# short: 6.1
# timeout: 180s
# Commands of `exec` run in scopes that systemd makes: the daemon's in the slice,
# those of a gate of their own beside it, delegated. A daemon-reload leaves both
# alone, `systemctl stop` ends one, and none stays.
. /opt/vm/rows/lib.sh

scopes() { systemctl list-units --all --plain --no-legend --type=scope 'sallyport-*.scope' | awk '{ print $1 }'; }
[ -z "$(scopes)" ] || fail "scopes before: $(scopes | tr '\n' ' ')"
remember

# scope_of FILE PREFIX: the command that wrote its cgroup to FILE runs below PREFIX.
scope_of() {
    eventually 60 test -s "$1"
    grep -q "^0::$2" "$1" || fail "cgroup $(grep ^0:: "$1"), want $2"
}
for way in '' --standalone; do
    rm -f own done
    # shellcheck disable=SC2086 # no argument where it is empty
    sallyport exec $way -- sh -c 'cat /proc/self/cgroup >own; curl -sS --max-time 20 http://api.example.com/ >answer; until [ -e done ]; do sleep 0.2; done; exit 7' &
    wrapper=$!
    case $way in
    '') scope_of own /mcp.slice/sallyport-exec- ;;
    *) scope_of own "/sallyport-exec-[0-9]*\.scope/gate/command" ;;
    esac
    unit=$(scopes)
    [ "$(echo "$unit" | wc -w)" = 1 ] || fail "scopes: $unit"
    cgroup=$(sed -n 's/^0:://p' own)
    systemctl daemon-reload
    [ -d "/sys/fs/cgroup$cgroup" ] || fail "daemon-reload took $cgroup away"
    if [ -n "$way" ]; then
        [ "$(systemctl show -p Delegate --value "$unit")" = yes ] || fail "$unit is not delegated"
        [ "$(systemctl show -p Slice --value "$unit")" = -.slice ] || fail "$unit is in $(systemctl show -p Slice --value "$unit")"
    fi
    eventually 60 test -s answer
    : >done
    status=0
    wait $wrapper || status=$?
    [ $status = 7 ] || fail "exec $way exited with $status, not with the command's 7"
    none_left() { [ -z "$(scopes)$(find /sys/fs/cgroup -type d -name 'sallyport-exec-*')" ]; }
    eventually 30 none_left
    rm -f answer
done

# One that systemd is asked to stop ends as a whole.
rm -f own
sallyport exec --standalone -- sh -c 'cat /proc/self/cgroup >own; exec sleep 600' &
wrapper=$!
scope_of own "/sallyport-exec-"
systemctl stop "$(scopes)"
wait $wrapper && fail "a stopped command exited with 0"
eventually 30 none_left
nft list tables | grep -q sallyport_ && fail "a table is left: $(nft list tables | tr '\n' ' ')"
nothing_leaked
