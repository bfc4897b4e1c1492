# kernels: 5.10 6.1 6.12 newest
# The machine itself: systemd is up, nothing has failed, modules load.
. /opt/vm/rows/lib.sh

[ "$(cat /proc/1/comm)" = systemd ] || fail "PID 1 is $(cat /proc/1/comm)"
eventually 60 sh -c '[ "$(systemctl is-system-running)" = running ]'
[ "$(stat -fc %T /sys/fs/cgroup)" = cgroup2fs ] || fail "no cgroup2"
nft add table inet smoke
nft delete table inet smoke
ip netns add smoke
ip netns del smoke
detail "$(uname -r), systemd $(systemctl --version | awk 'NR == 1 { print $2 }')"
