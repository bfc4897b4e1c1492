# short: 6.12 newest
# timeout: 600s
# needs: ./test/bypass
# needs: attacker
# The bypass table on this kernel: every way out, under both locks, under each
# alone and in nft redirect mode, as an ordinary user, with no_new_privs and without
# in turns. The race is smaller than outside: the machine is emulated.
. /opt/vm/rows/lib.sh

export SALLYPORT_BINARY=/opt/vm/bin/sallyport SALLYPORT_ATTACKER=/opt/vm/bin/attacker SALLYPORT_SLOWER=4
gotest test-bypass -report /opt/vm/bypass.json -root=false -turns -locks both,guard,none,bpf -connections 600
for outcome in refused proxied stated impossible reached direct; do
    figure "$outcome" "$(grep -c "\"outcome\":\"$outcome\"" /opt/vm/bypass.json || true)"
done
figure leaked "$(grep -v '"locks":"none"\|"locks":"redirects"' /opt/vm/bypass.json | grep -c '"outcome":"direct"' || true)"
