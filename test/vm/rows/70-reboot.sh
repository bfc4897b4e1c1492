# kernels: 6.1
# timeout: 500s
# A reboot with a unit and a container enabled and sallyport masked: both run,
# neither reaches the origin, until sallyport is back.
. /opt/vm/rows/lib.sh

if [ "$PHASE" = 0 ]; then
    podman_image
    cat >/etc/systemd/system/mcp-box.service <<'UNIT'
[Unit]
After=vm-internet.service
[Service]
ExecStartPre=-podman rm -f box
ExecStart=podman run --rm --name box --cgroup-parent=mcp.slice -v /opt/vm:/opt/vm --network=host local/box /opt/vm/guest load -out /opt/vm/box.json
Restart=always
[Install]
WantedBy=multi-user.target
UNIT
    systemctl daemon-reload
    systemctl enable -q mcp-load.service mcp-box.service
    rm -f /opt/vm/box.json
    systemctl mask -q --now sallyport.service sallyport-keeper.service
    again
fi
knocked() { sed -n 's/.*"knocked":\([0-9]*\).*/\1/p' "$1" 2>/dev/null || true; }
both() { [ "$(knocked /run/vm-mcp-load/load.json)" -gt 40 ] && [ "$(knocked /opt/vm/box.json)" -gt 40 ]; }
[ "$(systemctl is-active sallyport.service sallyport-keeper.service | sort -u)" = inactive ] || fail "sallyport runs although it is masked"
# The internet has counted since it came up, before anything that is tagged.
eventually 120 both
counts
for name in proxied direct forbidden datagrams; do
    [ "$(came $name)" = 0 ] || fail "$name: $(came $name) came to the origin with sallyport masked"
done
# It would have counted.
curl -s --max-time 10 http://203.0.113.10/ >/dev/null || fail "the internet is not there"
[ "$(came direct)" = 1 ] || fail "the internet does not count"
remember
figure tried $(($(tally mcp-load tried) + $(sed -n 's/.*"tried":\([0-9]*\).*/\1/p' /opt/vm/box.json)))
figure knocked $(($(knocked /run/vm-mcp-load/load.json) + $(knocked /opt/vm/box.json)))
systemctl unmask -q sallyport.service sallyport-keeper.service
systemctl start sallyport-keeper.service sallyport.service
eventually 60 ready
now=$(tally mcp-load ok)
eventually 60 loading mcp-load $((now + 50))
served() { [ "$(sed -n 's/.*"ok":\([0-9]*\).*/\1/p' /opt/vm/box.json)" -gt 50 ]; }
eventually 60 served
nothing_leaked
