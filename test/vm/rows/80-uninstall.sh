# kernels: 6.1
# timeout: 240s
# Uninstalling refuses while something runs behind the gate, and leaves nothing
# when it does not: no file, user, cgroup, table, program, map or link.
. /opt/vm/rows/lib.sh

if dpkg -r sallyport >out 2>&1; then fail "removed under a running workload"; fi
cat out
grep -q mcp-load out || fail "does not name what runs"
eventually 60 ready
systemctl disable -q --now mcp-load.service mcp-box.service
podman rm -fa -t 0 >/dev/null
sallyport untag unit mcp-load.service
dpkg -P sallyport
rm -f /etc/systemd/system/mcp-load.service /etc/systemd/system/mcp-box.service
systemctl daemon-reload
snapshot >/opt/vm/after
if ! diff /opt/vm/before /opt/vm/after >left; then
    cat left
    fail "left behind: $(grep -c '^[<>]' left) lines, first $(grep '^[<>]' left | head -n 3 | tr '\n' ' ')"
fi
detail "$(wc -l </opt/vm/before) files, users, cgroups, tables, programs, maps and links as before"
