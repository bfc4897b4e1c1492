# kernels: 6.1 6.12 newest
# timeout: 400s
# Restarts of the worker, the keeper and both under 50 requests a second: no
# request is lost, nothing leaks.
. /opt/vm/rows/lib.sh

active() { systemctl -q is-active sallyport.service && systemctl -q is-active sallyport-keeper.service && ready; }
remember
load_anew mcp-load
restarts=0
for _ in 1 2; do
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
load_ended mcp-load
nothing_leaked
figure restarts $restarts
none_lost mcp-load
systemctl start mcp-load.service
