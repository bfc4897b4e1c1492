# kernels: 6.1 6.12 newest
# needs: keep
# short: 6.1
# timeout: 300s
# Watchfulness on this kernel: connections that came from outside, wherever they are
# kept, and a clock that somebody sets.
. /opt/vm/rows/lib.sh

internet_up
mkdir -p /etc/sallyport
cat >/etc/sallyport/sallyport.yaml <<'YAML'
version: 1
mode: observe
default: allow
YAML
systemd-run -q --unit=watched /opt/vm/bin/sallyport run
eventually 120 ready
root=$(awk '$3 == "cgroup2" { print $2; exit }' /proc/mounts)
dir=$root/mcp.slice/outsider
mkdir -p $dir
audit=/var/log/sallyport/audit.jsonl

# A FIFO is the program's input: it sends again when it reads a line.
mkfifo /run/go
worst=0
for mode in plain thread leader ring dgram raw ping packet vsock; do
    sysctl -qw net.ipv4.ping_group_range='0 2147483647'
    /opt/vm/bin/keep $mode 203.0.113.10 80 $dir </run/go >/run/said 2>&1 &
    exec 9>/run/go
    eventually 60 grep -q -e joined -e ': ' /run/said
    if ! grep -q joined /run/said; then
        echo "$mode: not possible here: $(cat /run/said)"
        exec 9>&-
        wait || true
        continue
    fi
    echo "$mode: $(cat /run/said)"
    start=$(date +%s%N)
    pid=$(sed -n 's/^joined //p' /run/said)
    eventually 60 grep -q "\"kind\":\"foreign_socket\".*\"pid\":$pid," $audit
    took=$((($(date +%s%N) - start) / 1000000))
    [ $took -le $worst ] || worst=$took
    echo >&9 || true
    exec 9>&-
    wait || true # or ended by the gate
    ! grep -q sent /run/said || fail "$mode: the program sent: $(cat /run/said)"
done
figure slowest_ms $worst

# The clock: what changes it is told, the authority goes on.
metric() { curl -s http://127.0.0.1:9595/metrics | sed -n "s/^sallyport_$1 //p"; }
jumped() { [ "$(metric "clock_jumps_total{direction=\"$1\"}")" -ge "$2" ]; }
well() { sallyport status --json | grep -q '"problems":\[\]'; }
timedatectl set-ntp false 2>/dev/null || true
date -s '+2 hours' >/dev/null
eventually 60 jumped forward 1
date -s '-5 hours' >/dev/null
eventually 60 jumped back 1
grep -q 'the clock was set forward by ' $audit || fail 'no audit of the jump forward'
grep -q 'the clock was set back by ' $audit || fail 'no audit of the jump back'
# Three hours behind the start, a root of today is not valid yet, and that is said.
eventually 60 sh -c "sallyport status --json | grep -q 'certificates: the root certificate is not valid before'"
date -s '+3 hours' >/dev/null
eventually 60 well
expiry=$(metric 'ca_expiry_timestamp_seconds{certificate="issuing"}')
week=$(($(date +%s) + 7 * 86400))
awk -v a="$expiry" -v b=$week 'BEGIN { exit !(a > b - 120 && a < b + 120) }' || fail "the issuing certificate ends at $expiry, want about $week"

systemctl stop watched
sallyport teardown --stop >/dev/null
detail 'foreign sockets and a clock that is set'
