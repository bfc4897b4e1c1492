# kernels: 6.1 6.12 newest
# timeout: 180s
# An ordinary service: what it sends arrives directly until it is tagged, and
# never after.
. /opt/vm/rows/lib.sh

load_unit mcp-load
systemctl enable -q --now mcp-load.service
eventually 60 loading mcp-load 50
[ "$(came direct)" -gt 0 ] && [ "$(came forbidden)" -gt 0 ] && [ "$(came datagrams)" -gt 0 ] ||
    fail "the internet does not count what an untagged service sends: $(counts | tr '\n' ' ')"

sallyport tag unit mcp-load.service --restart
remember
load_anew mcp-load
eventually 60 loading mcp-load 100
grep -qx 0::/mcp.slice/mcp-load.service "/proc/$(systemctl show -p MainPID --value mcp-load.service)/cgroup" || fail "mcp-load.service is not in mcp.slice"
[ "$(came proxied)" -ge 100 ] || fail "not proxied: $(counts | tr '\n' ' ')"
knocked() { [ "$(tally mcp-load knocked)" -gt 10 ]; }
eventually 60 knocked
nothing_leaked
eventually 60 ready
sallyport status | tee status
grep -q mcp-load status || fail "status does not name the unit"
load_ended mcp-load
none_lost mcp-load
