# kernels: 6.1
# short: none
# timeout: 240s
# The binary alone, without a package: `install` speaks to systemd over D-Bus, makes
# the user, the units and the gate; once more it changes nothing; `uninstall` refuses
# while something runs behind the gate, and with --stop --purge leaves nothing.
. /opt/vm/rows/lib.sh

cp /opt/vm/bin/sallyport /opt/vm/bare
before=$(snapshot)
/opt/vm/bare install
for unit in sallyport-lock sallyport-keeper sallyport; do
    eventually 60 systemctl -q is-active $unit.service
    systemctl -q is-enabled $unit.service || fail "$unit.service is not enabled"
done
eventually 60 ready
cmp /opt/vm/bare /usr/bin/sallyport
main=$(systemctl show -p MainPID --value sallyport-keeper.service)
installed=$(snapshot)
/opt/vm/bare install
eventually 60 ready
unchanged() { [ "$installed" = "$(snapshot)" ]; }
soon unchanged || fail "installing twice is not the same as once: $(diff <(echo "$installed") <(snapshot) | tr '\n' ' ')"
[ "$main" = "$(systemctl show -p MainPID --value sallyport-keeper.service)" ] || fail "the same binary again has restarted the keeper"

systemd-run -q --unit=behind --slice=mcp.slice -p Restart=always sleep 1000
grep -qx 0::/mcp.slice/behind.service "/proc/$(systemctl show -p MainPID --value behind.service)/cgroup" || fail "not in the slice"
if sallyport uninstall >out 2>&1; then fail "uninstalled under a running workload"; fi
cat out
grep -q behind.service out || fail "does not name what runs"
eventually 60 ready
sallyport uninstall --stop --purge
[ -z "$(systemctl list-units --all --plain --no-legend 'sallyport*' 'mcp*' behind.service)" ] || fail "units stayed: $(systemctl list-units --all --plain --no-legend 'sallyport*' 'mcp*' behind.service)"
same() { after=$(snapshot) && [ "$before" = "$after" ]; }
soon same || fail "left behind: $(diff <(echo "$before") <(echo "$after") | head -n 5 | tr '\n' ' ')"
