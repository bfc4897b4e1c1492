# kernels: 6.1
# timeout: 240s
# needs: package
# The package of another version over the first, under 50 requests a second:
# nothing is lost, nothing leaks, and it is the new one that serves.
. /opt/vm/rows/lib.sh

new() { ready && [ "$(readlink "/proc/$(systemctl show -p MainPID --value "$1")/exe")" = /usr/bin/sallyport ]; }
remember
load_anew mcp-load
dpkg -i /opt/vm/packages/*0.0.2*.deb
for unit in sallyport-keeper sallyport; do
    eventually 60 new $unit.service
done
sallyport version | grep -q 0.0.2 || fail "not that version: $(sallyport version)"
now=$(tally mcp-load ok)
eventually 60 loading mcp-load $((now + 100))
grep -q X-Proxied /etc/sallyport/sallyport.yaml || fail "the configuration was replaced"
load_ended mcp-load
nothing_leaked
none_lost mcp-load
detail "$(sallyport version | head -n 1)"
