# kernels: 6.1
# timeout: 300s
# The firewall is reloaded by those who do: nft flush ruleset, and Debian's
# nftables.service, which flushes too. Nothing leaks, nothing is lost, and the
# table is there again.
. /opt/vm/rows/lib.sh

guarded() { nft list table inet sallyport >/dev/null 2>&1; }
remember
load_anew mcp-load
slowest=0
faults=0
for _ in 1 2 3 4 5; do
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
load_ended mcp-load
nothing_leaked
figure faults $faults
figure repaired_ms $slowest
none_lost mcp-load
