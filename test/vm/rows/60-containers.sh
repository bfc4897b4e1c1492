# kernels: 6.1
# timeout: 400s
# Containers of podman, of an image made from local files: on podman's bridge and
# without any network, by --cgroup-parent and by `tag container`; and one of crun
# alone.
. /opt/vm/rows/lib.sh

podman_image
remember
requested() {
    local before
    before=$(came proxied)
    "${@:2}" || fail "$1: no answer"
    [ "$(came proxied)" -gt "$before" ] || fail "$1: not proxied: $(counts | tr '\n' ' ')"
}
# Until the gate has opened inside of a new network namespace all is refused there:
# whoever asks at once asks again.
asking() { echo "for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15; do guest get $1 && exit; sleep 1; done; exit 1"; }
# In the slice from its start: nothing to tag.
requested bridge podman run --rm --cgroup-parent=mcp.slice local/box sh -c "$(asking http://api.example.com/bridge)"
requested "no network" podman run --rm --network=none -v /etc/resolv.conf:/etc/resolv.conf:ro --cgroup-parent=mcp.slice local/box sh -c "$(asking http://api.example.com/none)"
if podman run --rm --cgroup-parent=mcp.slice local/box guest get http://203.0.113.10:9000/; then fail "the forbidden port was answered"; fi

# Elsewhere: captured once its cgroup was seen and podman knows whose it is, which
# takes its time here; then nothing comes any more.
nothing_leaked
podman create --name tagged local/box sh -c 'while :; do guest get http://api.example.com/elsewhere; guest get http://203.0.113.10:9000/; sleep 0.5; done' >/dev/null
sallyport tag container tagged
podman start tagged
eventually 60 grep -q /elsewhere /var/log/sallyport/audit.jsonl
figure before_capture $(($(came direct) - $(awk '$1 == "direct" { print $2 }' /opt/vm/counts)))
remember
sleep 3
sallyport status
podman rm -ft 0 tagged
sallyport untag container tagged

# crun alone, with the host's network.
mkdir -p bundle
rm -rf bundle/rootfs
cp -a box bundle/rootfs
mkdir -p bundle/rootfs/proc bundle/rootfs/dev bundle/rootfs/sys bundle/rootfs/etc
cp /etc/resolv.conf bundle/rootfs/etc/
(cd bundle && rm -f config.json && crun spec)
sed -i 's|"sh"|"guest", "get", "http://api.example.com/crun"|; s|"terminal": true|"terminal": false|; s|"type": "network"|"type": "network", "path": "/proc/1/ns/net"|; s|"linux": {|&"cgroupsPath": "mcp.slice:crun:vm-crun",|' bundle/config.json
requested crun crun --systemd-cgroup --root /run/vm/crun run --bundle bundle vm-crun
nothing_leaked
figure containers 4
