# kernels: 6.1
# timeout: 300s
# What `tag` makes of units: the drop-in as systemd reads it, side doors shut and one
# opened, names, what is refused, what is captured late; a process; scopes of exec.
. /opt/vm/rows/lib.sh

id mcp >/dev/null 2>&1 || useradd --system --no-create-home mcp
unit() { # NAME LINE…: a service that sleeps
    printf '[Service]\nUser=mcp\nExecStart=/bin/sleep infinity\n' >"/etc/systemd/system/$1.service"
    local line
    for line in "${@:2}"; do echo "$line" >>"/etc/systemd/system/$1.service"; done
    systemctl daemon-reload
}
main() { systemctl show -p MainPID --value "$1.service"; }
in_unit() { nsenter -t "$(main "$1")" -m -- setpriv --reuid mcp --regid mcp --clear-groups "${@:2}"; }

unit tagged 'Environment=SSL_CERT_FILE=/etc/ssl/own.pem A=1'
systemctl start tagged
out=$(sallyport tag unit tagged --workload tools 2>err)
grep -q 'captured late' <<<"$out" || fail "tag of a running unit: $out"
grep -q 'SSL_CERT_FILE=/etc/ssl/own.pem' err || fail "a variable that the unit sets: $(cat err)"
eventually 60 sh -c 'sallyport status | grep -q "captured late: unit tagged.service"'
systemctl restart tagged
eventually 60 sh -c '! sallyport status | grep -q "captured late"'
grep -qx 0::/mcp.slice/tagged.service "/proc/$(main tagged)/cgroup" || fail "not in the slice: $(cat "/proc/$(main tagged)/cgroup")"
systemd-analyze verify /etc/systemd/system/tagged.service 2>&1 | grep -i sallyport.conf && fail "systemd does not like the drop-in"
journalctl -b -u init.scope --no-pager | grep -i '50-sallyport.conf' && fail "systemd complains of the drop-in"
status="/proc/$(main tagged)/status"
grep -q 'NoNewPrivs:.1' "$status" || fail "new privileges"
grep -q 'CapBnd:.0000000000000000' "$status" || fail "capabilities: $(grep Cap "$status")"
grep -q 'Seccomp:.2' "$status" || fail "no filter of system calls"
[ "$(readlink "/proc/$(main tagged)/ns/user")" != "$(readlink /proc/self/ns/user)" ] || fail "in the host's user namespace"
tr '\0' '\n' <"/proc/$(main tagged)/environ" >environ
grep -qx SSL_CERT_FILE=/etc/ssl/own.pem environ || fail "the unit's own variable is lost"
grep -qx NODE_EXTRA_CA_CERTS=/var/lib/sallyport/trust/current/root.pem environ || fail "no trust: $(cat environ)"
[ "$(in_unit tagged grep -c 'BEGIN CERTIFICATE' /var/lib/sallyport/trust/current/ca-certificates.crt)" -gt 1 ] || fail "the unit cannot read its trust"
in_unit tagged cat /run/sallyport/exec.sock >/dev/null 2>&1 && fail "the unit sees sallyport's sockets"
in_unit tagged sh -c 'echo $$ >/sys/fs/cgroup/cgroup.procs' 2>/dev/null && fail "the unit left its cgroup"
sallyport status --json >out
grep -q '"name": *"tools"' out || fail "status has no workload tools: $(sallyport status)"

# A socket that an engine makes later is hidden from it too.
in_unit tagged sh -c '[ -S /run/docker.sock ]' && fail "there is a docker already"
systemd-run -q --unit late-door --socket-property ListenStream=/run/docker.sock --socket-property SocketMode=0777 --socket-property RemoveOnStop=yes true
[ -S /run/docker.sock ] || fail "no socket that could be seen"
eventually 60 in_unit tagged sh -c '[ ! -S /run/docker.sock ]'
systemctl stop late-door.socket

# Tagging again changes nothing of its own; one opening is said.
cp /etc/systemd/system/tagged.service.d/50-sallyport.conf first.conf
sallyport tag unit tagged --workload tools >/dev/null 2>&1
cmp first.conf /etc/systemd/system/tagged.service.d/50-sallyport.conf || fail "tagging twice is not the same as once"
sallyport tag unit tagged --allow namespaces --restart >/dev/null 2>&1
[ "$(systemctl show -p RestrictNamespaces --value tagged)" = no ] || fail "namespaces are not allowed: $(systemctl show -p RestrictNamespaces tagged)"
eventually 60 sh -c 'sallyport status | grep -q "allowed: namespaces"'
sallyport tag unit tagged --allow everything 2>/dev/null && fail "an unknown opening was taken"

# sallyport's stop leaves the unit alone.
before=$(main tagged)
systemctl stop sallyport.service
[ "$(main tagged)" = "$before" ] && systemctl -q is-active tagged || fail "a stop of sallyport took the unit with it"
systemctl start sallyport.service
eventually 60 ready

# What is no service, is a user's, is unknown.
for name in mcp.slice init.scope dbus.socket user@1000.service sallyport.service nowhere.service basic.target; do
    sallyport tag unit $name >out 2>&1 && fail "tagged $name"
    grep -q 'tag unit: ' out || fail "$name: $(cat out)"
done
unit rooted
sed -i /User=/d /etc/systemd/system/rooted.service
systemctl daemon-reload
sallyport tag unit rooted >out 2>&1
grep -q 'runs as root' out || fail "no warning of root: $(cat out)"
sallyport untag unit rooted >out
grep -q 'next start' out || fail "untag: $(cat out)"
[ ! -e /etc/systemd/system/rooted.service.d ] || fail "untag left the drop-in"
sallyport untag unit rooted 2>/dev/null && fail "untagged twice"

# What leads out of the slice, or gives the unit sockets that are older than it.
unit session PAMName=login
sallyport tag unit session >out 2>&1 && fail "tagged a unit that opens a PAM session"
grep -q PAMName out || fail "PAMName: $(cat out)"
unit handed
printf '[Socket]\nListenStream=127.0.0.1:7070\n' >/etc/systemd/system/handed.socket
systemctl daemon-reload
systemctl start handed.socket
sallyport tag unit handed >out 2>&1 && fail "tagged a unit that is given an internet socket"
grep -q handed.socket out || fail "socket activation: $(cat out)"
systemctl stop handed.socket
[ -z "$(find /etc/systemd/system/{session,handed}.service.d 2>/dev/null)" ] || fail "what was refused left a drop-in"

# A process, and commands of exec, are scopes of systemd's in the slice.
setsid setpriv --reuid mcp --regid mcp --clear-groups sleep 301 &
sleeps() { pid=$(pgrep -u mcp -xf 'sleep 301'); }
eventually 60 sleeps
sallyport tag pid "$pid" --workload tools || fail "tag pid"
grep -q "0::/mcp.slice/sallyport-pid-$pid-.*\.scope" "/proc/$pid/cgroup" || fail "$(cat "/proc/$pid/cgroup")"
systemctl list-units --plain --no-legend 'sallyport-pid-*.scope' | grep -q running || fail "systemd does not know the scope"
kill "$pid"
scope=$(sallyport exec -- sh -c 'cat /proc/self/cgroup; sleep 1')
grep -q '0::/mcp.slice/sallyport-exec-.*\.scope' <<<"$scope" || fail "exec: $scope"
eventually 60 sh -c '[ -z "$(systemctl list-units --all --plain --no-legend "sallyport-exec-*")" ]'
sallyport exec -- curl -sSf -m 20 http://api.example.com/exec >/dev/null || fail "exec reaches nothing"
sallyport untag unit tagged >/dev/null
systemctl stop tagged rooted
rm -f /etc/systemd/system/{tagged,rooted,session,handed}.service /etc/systemd/system/handed.socket
systemctl daemon-reload
[ -z "$(find /etc/systemd -name 50-sallyport.conf -path '*tagged*')" ] || fail "a drop-in stayed"
