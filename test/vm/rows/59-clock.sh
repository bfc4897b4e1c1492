# kernels: 6.1
# timeout: 180s
# Somebody sets the clock: it is told, a root that is not valid yet is a problem, the
# gate goes on, and the certificates are those of the time that it is.
. /opt/vm/rows/lib.sh

audit=/var/log/sallyport/audit.jsonl
metric() { curl -s http://127.0.0.1:9595/metrics | sed -n "s/^sallyport_$1 //p"; }
jumped() { [ "$(metric "clock_jumps_total{direction=\"$1\"}")" -ge 1 ]; }
problem() { sallyport status --json | grep -q "$1"; }
# A status that is not answered says nothing of certificates either.
well() { local now; now=$(sallyport status --json) && ! grep -q 'certificates:' <<<"$now"; }
tagged() { systemd-run -q --wait --pipe --collect --slice=mcp.slice -p User=mcp "$@"; }
serves() { tagged curl -sS --max-time 20 http://api.example.com/at-another-time >/dev/null; }
timedatectl set-ntp false 2>/dev/null || true

date -s '+2 hours' >/dev/null
eventually 60 jumped forward
serves || fail "two hours later nothing is served"
date -s '-5 hours' >/dev/null
eventually 60 jumped back
eventually 60 problem 'certificates: the root certificate is not valid before'
serves || fail "three hours earlier nothing is served"
date -s '+3 hours' >/dev/null
eventually 60 well
expiry=$(metric 'ca_expiry_timestamp_seconds{certificate="issuing"}')
week=$(($(date +%s) + 7 * 86400))
awk -v a="$expiry" -v b=$week 'BEGIN { exit !(a > b - 600 && a < b + 600) }' || fail "the issuing certificate ends at $expiry, want about $week"
for way in 'forward by ' 'back by '; do
    grep -q "the clock was set $way" $audit || fail "the audit does not tell of a clock set $way"
done
ready || fail "not ready: $(sallyport status)"
