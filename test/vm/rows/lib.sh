# What rows share. A row starts with `. /opt/vm/rows/lib.sh`, runs as root under
# systemd, and has failed if it exits with anything but 0; the last line that it
# writes is then its detail. It finds
#
#   /opt/vm/guest             internet, load: see `guest internet -help`
#   /opt/vm/bin/sallyport     the binary; /opt/vm/bin/PKG.test: compiled tests
#   /opt/vm/packages/*.deb    two versions, where its head says `needs: package`
#   $PHASE                    0, and one more after each reboot
set -Eeuo pipefail
# A command that fails ends the row, and is its detail.
trap 'echo "line $LINENO: exit $?: $BASH_COMMAND" >&2' ERR
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/opt/vm/bin:/opt/vm

# fail WHY: ends the row.
fail() { echo "$*" >&2; exit 1; }

# figure NAME NUMBER: a number of the row's verdict.
figure() { echo "$1 $2" >>"$FIGURES"; }

# detail TEXT: what the verdict says when the row holds.
detail() { echo "$*" >"$DETAIL"; }

# again: reboots; the row is called again with the next $PHASE.
again() { sync; exit 194; }

# eventually SECONDS COMMAND…: until it holds, or the row fails.
eventually() {
    local limit=$((SECONDS + $1))
    shift
    until "$@"; do
        [ $SECONDS -lt $limit ] || fail "not within the time: $*"
        sleep 0.2
    done
}

# soon COMMAND…: whether it holds now or in a while: the kernel frees programs and maps,
# and systemd forgets units, some time after they are removed.
soon() {
    local limit=$((SECONDS + 30))
    until "$@"; do
        [ $SECONDS -lt $limit ] || return 1
        sleep 1
    done
}

# gotest NAME [ARGUMENT…]: compiled tests /opt/vm/bin/NAME.test; counts what
# passed, was skipped and failed, and names what did not pass.
gotest() {
    local name=$1 out=/opt/vm/$1.out status=0
    shift
    mkdir -p "/opt/vm/work/$name"
    (cd "/opt/vm/work/$name" && "/opt/vm/bin/$name.test" -test.v "$@") >"$out" 2>&1 || status=$?
    figure passed "$(grep -c '^ *--- PASS' "$out" || true)"
    figure skipped "$(grep -c '^ *--- SKIP' "$out" || true)"
    figure failed "$(grep -c '^ *--- FAIL' "$out" || true)"
    grep -B1 -E '^ *--- SKIP' "$out" || true
    if [ $status -ne 0 ]; then
        grep -E '^ *--- FAIL|_test\.go:[0-9]+: |^panic' "$out" | cut -c 1-600 | tail -n 60
        fail "$name: $(grep -E '^ *--- FAIL' "$out" | head -n 5 | tr -s ' \n' ' ')"
    fi
    grep -q '^ *--- PASS' "$out" || fail "$name: no test ran"
}

# bypass ARGUMENT…: test/bypass's tests, with figures of what came of the attempts.
bypass() {
    local outcome report=/opt/vm/bypass.json
    rm -f $report
    SALLYPORT_BINARY=/opt/vm/bin/sallyport SALLYPORT_ATTACKER=/opt/vm/bin/attacker SALLYPORT_SLOWER=4 \
        gotest test-bypass -report $report -root=false -turns "$@"
    for outcome in refused proxied stated impossible reached; do
        figure "$outcome" "$(grep -c "\"outcome\":\"$outcome\"" $report || true)"
    done
    figure leaked "$(grep -c '"outcome":"direct"' $report || true)"
}

# What follows is the story that the rows from 50 on tell of one host.

# internet_up: a name server and origins beyond a cable, as a unit that is there
# after a reboot too, before anything that is tagged. The origin is
# 203.0.113.10 under every name; port 9000 is one that no rule allows.
internet_up() {
    cat >/opt/vm/cable <<'SH'
#!/bin/sh -e
ip netns del internet 2>/dev/null || true
ip netns add internet
ip link add eth0 type veth peer name eth0 netns internet
ip addr add 203.0.113.2/24 dev eth0
ip link set eth0 up
ip -n internet addr add 203.0.113.10/24 dev eth0
ip -n internet addr add 203.0.113.53/24 dev eth0
ip -n internet link set lo up
ip -n internet link set eth0 up
ip route add default via 203.0.113.10
SH
    chmod 755 /opt/vm/cable
    cat >/etc/systemd/system/vm-internet.service <<'UNIT'
[Unit]
DefaultDependencies=no
After=local-fs.target systemd-sysctl.service
Before=basic.target
[Service]
ExecStartPre=/opt/vm/cable
ExecStart=ip netns exec internet /opt/vm/guest internet
RuntimeDirectory=vm
RuntimeDirectoryPreserve=yes
[Install]
WantedBy=basic.target
UNIT
    echo 'nameserver 203.0.113.53' >/etc/resolv.conf
    systemctl enable -q --now vm-internet.service
    eventually 20 test -S /run/vm/internet.sock
}

# came NAME: how many the internet has seen: proxied, direct (requests), forbidden
# (connections to port 9000), datagrams, queries.
came() { counts | awk -v n="$1" '$1 == n { print $2 }'; }
counts() { guest count; }

# nothing_leaked: nothing came but what was proxied, since `remember`.
remember() { counts >/opt/vm/counts; }
nothing_leaked() {
    local name before now
    for name in direct forbidden datagrams; do
        before=$(awk -v n=$name '$1 == n { print $2 }' /opt/vm/counts)
        now=$(came $name)
        [ "$now" = "$before" ] || fail "leaked: $name went from $before to $now"
    done
    figure leaked 0
}

# load_unit NAME [ARGUMENT…]: an ordinary service of an ordinary user that makes
# 50 requests a second and knocks at the forbidden port; its tally is
# /run/vm-NAME/load.json.
load_unit() {
    local name=$1
    shift
    id mcp >/dev/null 2>&1 || useradd --system --no-create-home mcp
    cat >"/etc/systemd/system/$name.service" <<UNIT
[Unit]
After=vm-internet.service
[Service]
User=mcp
RuntimeDirectory=vm-$name
RuntimeDirectoryPreserve=yes
ExecStart=/opt/vm/guest load -out /run/vm-$name/load.json $*
TimeoutStopSec=70s
[Install]
WantedBy=multi-user.target
UNIT
    systemctl daemon-reload
}

# load_anew NAME: from the beginning, with a tally of its own.
load_anew() {
    systemctl stop "$1.service"
    rm -f "/run/vm-$1/load.json"
    systemctl start "$1.service"
    eventually 60 loading "$1" 50
}

# load_ended NAME [WORD]: stops it; its tally becomes figures. WORD is what a
# request without its answer is called, `lost` if absent.
load_ended() {
    systemctl stop "$1.service"
    cat "/run/vm-$1/load.json"
    figure tried "$(tally "$1" tried)"
    figure per_second "$(tally "$1" per_second)"
    figure knocked "$(tally "$1" knocked)"
    figure "${2:-lost}" "$(tally "$1" lost)"
    figure p99_ms "$(tally "$1" p99_ms)"
    figure max_ms "$(tally "$1" max_ms)"
}

# meanwhile FIGURE COMMAND…: with the worker's unit, the keeper's and both as
# further words. Each time all must be active again and go on serving.
meanwhile() {
    local name=$1 times=0 units now
    shift
    active() { systemctl -q is-active sallyport.service && systemctl -q is-active sallyport-keeper.service && ready; }
    for units in sallyport sallyport-keeper 'sallyport sallyport-keeper'; do
        # The words are units.
        # shellcheck disable=SC2086
        "$@" $units
        times=$((times + 1))
        eventually 60 active
        now=$(tally mcp-load ok)
        eventually 60 loading mcp-load $((now + 50))
    done
    figure "$name" "$times"
}

# none_lost NAME: every request had its answer.
none_lost() { [ "$(tally "$1" lost)" = 0 ] || fail "lost: $(cat "/run/vm-$1/load.json")"; }

# tally NAME FIELD: a number of a unit's load.
tally() { sed -n "s/.*\"$2\":\([0-9.]*\).*/\1/p" "/run/vm-$1/load.json"; }

# loading NAME: has it begun, and does it go on?
loading() { [ -e "/run/vm-$1/load.json" ] && [ "$(tally "$1" ok)" -gt "${2:-0}" ]; }

# ready: is the gate?
ready() { sallyport status --json 2>/dev/null | grep -q '"ready": *true'; }

# snapshot: all that an installation may leave, a line each. What time and other
# programs change by themselves is not in it.
snapshot() {
    find / -xdev \( -path /opt/vm -o -path /proc -o -path /sys -o -path /dev -o -path /tmp -o -path /var/tmp -o -path /run \
        -o -path /var/log/journal -o -path /var/log/dpkg.log -o -path /var/lib/containers -o -path /var/lib/systemd -o -path /etc/ssl \
        -o -path /var/lib/dpkg -o -path /var/cache -o -path /etc/.pwd.lock -o -path /root -o -path /var/lib/cni \) -prune \
        -o \( -name '*-' -path '/etc/*' \) -o \( -name 'mcp-load.service' -o -name 'mcp-box.service' \) -o -print | sort
    ls /run | grep -E 'sallyport' || true
    find /run/systemd /etc/systemd -name '*sallyport*' 2>/dev/null || true
    # The user of the rows' own service is theirs.
    getent passwd | grep -v '^mcp:' || true
    getent group | grep -v '^mcp:' | sort
    find /sys/fs/cgroup -type d \( -name '*sallyport*' -o -name 'mcp*' \)
    nft list tables | grep sallyport || true
    ls /sys/fs/bpf
    # Programs and maps by their names: those of systemd and of container engines,
    # for units and containers of now, have another beginning or none.
    bpftool link list | awk '/^[0-9]+:/ { print "link", $2 }' | sort
    bpftool map list | awk '/^[0-9]+:/ && $3 == "name" { print "map", $2, $4 }' | sort
    bpftool prog list | awk '/^[0-9]+:/ && $3 == "name" && $4 !~ /^sd_/ { print "program", $2, $4 }' | sort
    dpkg-query -f '${Package} ${Status}\n' -W 'sallyport*' 2>/dev/null || true
}

# podman_image: local/box, made of the host's busybox and of guest; its files are
# in box.
podman_image() {
    [ ! -d box ] || return 0
    mkdir -p box/bin
    cp /bin/busybox /opt/vm/guest box/bin/
    local name
    for name in sh ip ls cat sleep; do ln -s busybox box/bin/$name; done
    tar -C box -c . | podman import -q - local/box >/dev/null
}
