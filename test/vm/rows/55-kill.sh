# kernels: 6.1
# timeout: 400s
# kill -9 of the worker, the keeper and both under 50 requests a second: what the
# worker was serving breaks off, nothing leaks, all comes back by itself.
. /opt/vm/rows/lib.sh

kill_all() {
    local unit
    for unit; do
        xargs -r kill -9 <"/sys/fs/cgroup/sallyport.slice/$unit.service/cgroup.procs" 2>/dev/null || true
    done
    # Until systemd has seen it, they are as active as before.
    sleep 1
}
remember
load_anew mcp-load
meanwhile kills kill_all
load_ended mcp-load broken_off
nothing_leaked
