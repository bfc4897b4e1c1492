# kernels: 6.1
# timeout: 120s
# What systemd-analyze thinks of the worker's unit, and what the kernel has of it.
. /opt/vm/rows/lib.sh

systemd-analyze security --no-pager sallyport.service | grep -v '^✓' || true
for unit in sallyport sallyport-keeper; do
    score=$(systemd-analyze security --no-pager $unit.service | awk '/Overall exposure level/ { for (i = 1; i <= NF; i++) if ($i ~ /^[0-9.]+$/) print $i }')
    [ -n "$score" ] || fail "no exposure of $unit.service"
    figure "exposure_$unit" "$score"
    [ $unit != sallyport ] || awk -v s="$score" 'BEGIN { exit !(s <= 2.5) }' || fail "sallyport.service has an exposure of $score, want 2.5 at most"
done
pids=$(cat /sys/fs/cgroup/sallyport.slice/sallyport.service/cgroup.procs)
[ -n "$pids" ] || fail "no process of sallyport.service"
for pid in $pids; do
    for set in CapInh CapPrm CapEff CapBnd CapAmb; do
        grep -q "^$set:.0000000000000000$" "/proc/$pid/status" || fail "pid $pid: $(grep $set "/proc/$pid/status")"
    done
    grep -q '^NoNewPrivs:.1$' "/proc/$pid/status" || fail "pid $pid may gain privileges"
    [ "$(stat -c %U "/proc/$pid")" = sallyport ] || fail "pid $pid runs as $(stat -c %U "/proc/$pid")"
done
