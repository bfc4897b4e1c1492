# kernels: 6.1
# timeout: 240s
# Teardown and uninstalling refuse while something runs behind the gate. Teardown
# ends it if told to; uninstalling leaves nothing: no file, user, cgroup, table,
# program, map or link.
. /opt/vm/rows/lib.sh

if dpkg -r sallyport >out 2>&1; then fail "removed under a running workload"; fi
cat out
grep -q mcp-load out || fail "does not name what runs"
eventually 60 ready

systemctl disable -q --now mcp-load.service mcp-box.service
systemd-run -q --unit=sleeper --slice=mcp.slice -p User=mcp sleep infinity
systemctl stop sallyport.service sallyport-keeper.service
if sallyport teardown >out 2>&1; then fail "torn down under a running workload"; fi
grep -q sleeper out || fail "teardown does not name what runs: $(cat out)"
nft list tables | grep -q sallyport || fail "a teardown that was refused took the table"
began=$SECONDS
sallyport teardown --stop
figure teardown_seconds $((SECONDS - began))
systemctl -q is-active sleeper.service && fail "sleeper.service goes on without the gate"
nft list tables | grep sallyport && fail "a table stayed"
[ ! -e /sys/fs/bpf/sallyport ] || fail "pins stayed"
[ ! -e /etc/systemd/system/mcp-load.service.d ] || fail "a drop-in stayed"
systemctl start sallyport.service
eventually 60 ready

podman rm -fa -t 0 >/dev/null
dpkg -P sallyport
rm -f /etc/systemd/system/mcp-load.service /etc/systemd/system/mcp-box.service
systemctl daemon-reload
same() { snapshot >/opt/vm/after && diff /opt/vm/before /opt/vm/after >left; }
if ! soon same; then
    cat left
    fail "left behind: $(grep -c '^[<>]' left) lines, first $(grep '^[<>]' left | head -n 3 | tr '\n' ' ')"
fi
detail "$(wc -l </opt/vm/before) files, users, cgroups, tables, programs, maps and links as before"
