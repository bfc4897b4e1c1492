# kernels: 6.1
# timeout: 400s
# kill -9 of the worker, the keeper and both under 50 requests a second: what the
# worker was serving breaks off, nothing leaks, all comes back by itself.
. /opt/vm/rows/lib.sh

active() { systemctl -q is-active sallyport.service && systemctl -q is-active sallyport-keeper.service && ready; }
kill_all() {
    local unit
    for unit; do
        xargs -r kill -9 <"/sys/fs/cgroup/sallyport.slice/$unit.service/cgroup.procs" 2>/dev/null || true
    done
}
remember
load_anew mcp-load
kills=0
for _ in 1 2; do
    for units in sallyport sallyport-keeper 'sallyport sallyport-keeper'; do
        # The words are units.
        # shellcheck disable=SC2086
        kill_all $units
        kills=$((kills + 1))
        sleep 1
        eventually 60 active
        now=$(tally mcp-load ok)
        eventually 60 loading mcp-load $((now + 50))
    done
done
load_ended mcp-load broken_off
nothing_leaked
figure kills $kills
systemctl start mcp-load.service
