# kernels: 6.1
# timeout: 300s
# The firewall is reloaded by those who do: nft flush ruleset, and Debian's
# nftables.service, which flushes too. Nothing leaks, nothing is lost, and the
# table is there again.
. /opt/vm/rows/lib.sh

guarded() { nft list table inet sallyport >/dev/null 2>&1; }
systemctl restart mcp-load.service
eventually 60 loading mcp-load 50
remember
slowest=0
faults=0
for _ in 1 2 3 4 5 6 7 8 9 10; do
    for fault in 'nft flush ruleset' 'nft delete table inet sallyport' 'systemctl restart nftables.service'; do
        $fault
        faults=$((faults + 1))
        start=$(date +%s%N)
        eventually 60 guarded
        took=$((($(date +%s%N) - start) / 1000000))
        [ $took -le $slowest ] || slowest=$took
    done
    sleep 0.5
done
eventually 60 ready
systemctl stop mcp-load.service
cat /run/vm-mcp-load/load.json
nothing_leaked
figure faults $faults
figure repaired_ms $slowest
figure tried "$(tally mcp-load tried)"
figure knocked "$(tally mcp-load knocked)"
figure lost "$(tally mcp-load lost)"
[ "$(tally mcp-load lost)" = 0 ] || fail "lost: $(cat /run/vm-mcp-load/load.json)"
systemctl start mcp-load.service
