# kernels: 6.1
# timeout: 400s
# Restarts of the worker, the keeper and both under 50 requests a second: no
# request is lost, nothing leaks.
. /opt/vm/rows/lib.sh

active() { systemctl -q is-active sallyport.service && systemctl -q is-active sallyport-keeper.service && ready; }
systemctl restart mcp-load.service
remember
eventually 60 loading mcp-load 50
restarts=0
for _ in 1 2 3; do
    for units in sallyport sallyport-keeper 'sallyport sallyport-keeper'; do
        # The words are units.
        # shellcheck disable=SC2086
        systemctl restart $units
        restarts=$((restarts + 1))
        eventually 60 active
        now=$(tally mcp-load ok)
        eventually 60 loading mcp-load $((now + 50))
    done
done
systemctl stop mcp-load.service
cat /run/vm-mcp-load/load.json
nothing_leaked
figure restarts $restarts
figure tried "$(tally mcp-load tried)"
figure knocked "$(tally mcp-load knocked)"
figure lost "$(tally mcp-load lost)"
figure p99_ms "$(tally mcp-load p99_ms)"
figure max_ms "$(tally mcp-load max_ms)"
[ "$(tally mcp-load lost)" = 0 ] || fail "lost: $(cat /run/vm-mcp-load/load.json)"
systemctl start mcp-load.service
