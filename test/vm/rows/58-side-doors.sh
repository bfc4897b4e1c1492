# kernels: 6.1 6.12 newest
# short: 6.1
# timeout: 300s
# needs: attacker
# The side doors that no lock of the network sees, from a unit with the drop-in
# that `tag unit` writes: each was open to the same user and program before.
. /opt/vm/rows/lib.sh

id mcp >/dev/null 2>&1 || useradd --system --no-create-home mcp
install -m 4755 /opt/vm/bin/attacker /opt/vm/setuid-attacker

# Those who would do something for a program outside of its cgroup. Podman's own
# socket is root's.
systemctl stop podman.socket
doors=(/run/docker.sock /run/containerd/containerd.sock /run/podman/podman.sock /run/nscd/socket)
for i in "${!doors[@]}"; do
    printf '[Socket]\nListenStream=%s\nSocketMode=0777\nAccept=yes\nRemoveOnStop=yes\n' "${doors[i]}" >/run/systemd/system/door-$i.socket
    printf '[Service]\nExecStart=echo yours\nStandardInput=socket\n' >"/run/systemd/system/door-$i@.service"
done
systemctl daemon-reload
systemctl start door-{0..3}.socket

# A process of the same user outside, with a connection.
systemd-run -q --unit bystander -p User=mcp -p StandardOutput=file:/run/bystander sh -c \
    'mkfifo /tmp/never 2>/dev/null; exec /opt/vm/bin/attacker "socket inet stream 6" pid "sleep 170000"'
eventually 60 grep -q '^pid ok' /run/bystander
read -r _ _ pid fd secret < <(grep "^pid ok" /run/bystander)

statements=("unix /run/docker.sock hello" "unix /run/containerd/containerd.sock hello" "unix /run/podman/podman.sock hello" "unix /run/nscd/socket hello"
    "unix /run/dbus/system_bus_socket hello" "unix /run/systemd/private hello"
    "steal $pid $fd" "trace $pid" "memory $pid $secret" "copy $pid $secret"
    "socket vsock stream 0" "uringsocket inet stream 6" "userns" "unshare" "families" "requestkey x.attacker.example")

# The unit makes each statement in a process of its own.
cat >/opt/vm/doors <<'SH'
#!/bin/sh
while IFS= read -r s; do echo "$s => $(/opt/vm/bin/attacker "$s" 2>&1 | tail -n 1)"; done </opt/vm/statements
echo "setuid => $(/opt/vm/setuid-attacker "socket packet dgram 2048" 2>&1 | tail -n 1)"
echo done
SH
chmod 755 /opt/vm/doors
printf '%s\n' "${statements[@]}" >/opt/vm/statements
cat >/etc/systemd/system/doors.service <<'UNIT'
[Service]
Type=oneshot
User=mcp
ExecStart=/opt/vm/doors
StandardOutput=truncate:/run/doors
UNIT
systemctl daemon-reload
systemctl start doors.service
cp /run/doors /opt/vm/doors-open

sallyport tag unit doors.service
systemctl start doors.service
sallyport untag unit doors.service || true
grep -q '^done' /run/doors || fail "the tagged unit did not end its attempts: $(cat /run/doors)"

# answer FILE STATEMENT: what came of it.
answer() { grep -F "$2 => " "$1" | sed 's/.* => //' | head -n 1; }
open=0
for s in "${statements[@]}" setuid; do
    before=$(answer /opt/vm/doors-open "$s")
    after=$(answer /run/doors "$s")
    echo "$s: $before | $after"
    case $s in
    families) [ "$after" = "families ok 1 2 10 16 " ] || [ "$after" = "families ok 1 2 10 16" ] || fail "families: $after" ;;
    requestkey*) [ "$after" = "requestkey ENOSYS" ] || fail "request_key: $after" ;;
    *) case $after in *" ok"*) fail "$s: open under the drop-in: $after" ;; esac ;;
    esac
    case $before in *" ok"*) open=$((open + 1)) ;; esac
done
figure doors "$((${#statements[@]} + 1))"
figure open_before "$open"
[ "$open" -ge 10 ] || fail "only $open doors were open before: $(cat /opt/vm/doors-open)"
systemctl stop bystander.service door-{0..3}.socket
rm -f /run/systemd/system/door-* /etc/systemd/system/doors.service /opt/vm/setuid-attacker
systemctl daemon-reload
systemctl start podman.socket
